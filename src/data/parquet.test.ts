import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { FormatError } from "../formats/errors.ts";
import { Rng } from "../util/rng.ts";
import type { LocatedRow } from "./jsonl.ts";
import { readParquet } from "./parquet.ts";

const FIXTURES = fileURLToPath(new URL("../../tests/fixtures/data/", import.meta.url));

async function records(path: string): Promise<LocatedRow[]> {
  const rows: LocatedRow[] = [];
  for await (const row of readParquet(path)) rows.push(row);
  return rows;
}

/** The rows of tests/oracle/data/make_parquet.py. */
const chats = Array.from({ length: 25 }, (_, i) => {
  const turns = [
    { role: "user", content: `question ${i} é漢🙂`, name: null },
    { role: "assistant", content: `answer ${i}\n`, name: "bot" },
  ];
  const score = i % 3 === 0 ? null : i / 4;
  return { id: i, messages: i % 2 ? [...turns, ...turns] : turns, score, tags: i % 2 ? [] : ["a", `t${i}`] };
});

for (const codec of ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]) {
  test(`conversations in three row groups, ${codec}`, async () => {
    const path = `${FIXTURES}chats-${codec}.parquet`;
    const found = await records(path);
    assert.deepEqual(
      found.map(({ row }) => row),
      chats,
    );
    assert.equal(found[12]!.where, `${path}[12]`);
  });
}

test("kinds of values, as JSON has them", async () => {
  const rows = (await records(`${FIXTURES}kinds.parquet`)).map(({ row }) => row);
  const when = "2024-02-29T12:30:15.250Z";
  const day = "2024-02-29T00:00:00.000Z";
  assert.deepEqual(
    rows.map(({ bytes, ...row }) => [Buffer.from(bytes as Uint8Array).toString("hex"), row]),
    [
      ["ff00", { text: "", flag: true, big: "9007199254740992", small: 1, when, day }],
      ["", { text: "same", flag: false, big: "-1152921504606846976", small: 2, when, day }],
      ["61", { text: "same", flag: null, big: 1, small: 3, when, day }],
      ["62", { text: null, flag: true, big: 2 ** 53 - 1, small: 255, when, day }],
    ],
  );
  assert.deepEqual(await records(`${FIXTURES}empty.parquet`), []);
});

test("files that are not Parquet, cut short or changed give a FormatError or other values, never more", async () => {
  const folder = await mkdtemp(join(tmpdir(), "parquet-"));
  const path = join(folder, "a.parquet");
  try {
    await assert.rejects(records(path), /a\.parquet: file: found ENOENT/);
    await writeFile(path, "text\nhello\n");
    await assert.rejects(records(path), /a\.parquet: metadata: found .*; expected a Parquet file/);
    await writeFile(path, "");
    await assert.rejects(records(path), FormatError);
    const rng = new Rng(5);
    let refused = 0;
    for (const name of ["chats-snappy", "chats-zstd", "kinds"]) {
      const good = readFileSync(`${FIXTURES}${name}.parquet`);
      for (let i = 0; i < 60; i++) {
        const bad = Buffer.from(i % 4 === 0 ? good.subarray(0, rng.below(good.length)) : good);
        for (let j = i % 4; j > 0; j--) bad[rng.below(bad.length)] = rng.below(256);
        await writeFile(path, bad);
        await records(path).catch((error: unknown) => {
          refused++;
          assert.ok(error instanceof FormatError, String(error));
        });
      }
    }
    assert.ok(refused > 50, `${refused}`);
  } finally {
    await rm(folder, { recursive: true });
  }
});
