import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { writeAtomically } from "../formats/atomic.ts";
import { FormatError } from "../formats/errors.ts";
import { Rng } from "../util/rng.ts";
import type { TokenizedRow } from "./collate.ts";
import { PreparedFile, PreparedWriter } from "./prepared-file.ts";
import { emptyReport } from "./recipe-report.ts";
import type { Recipe } from "./recipes.ts";
import { rowsOfBlock, type TokenBlock, tokenizeBlock } from "./token-block.ts";

/** Rows of random ids and masks, some of the masks all or nothing. */
function randomRows(count: number, seed: number): TokenizedRow[] {
  const rng = new Rng(seed);
  return Array.from({ length: count }, (_, i) => {
    const inputIds = Int32Array.from({ length: i % 7 === 0 ? 1 : 1 + rng.below(40) }, () => rng.below(2 ** 31));
    const labels = inputIds.map((id) => (i % 5 === 0 || (i % 5 !== 1 && rng.below(3) > 0) ? id : -100));
    return { inputIds, labels };
  });
}

/** A recipe that gives these rows, whatever it is asked. */
function blockOf(rows: readonly TokenizedRow[]): TokenBlock {
  let next = 0;
  const recipe = { prepare: () => rows[next++]! } as unknown as Recipe;
  return tokenizeBlock(
    recipe,
    rows.map(() => ({ row: {}, where: "" })),
  );
}

const details = { report: { ...emptyReport(), rows: 3, droppedAt: ["a:1"] }, files: ["é.jsonl"] };

async function withFile(rows: readonly TokenizedRow[], use: (path: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "prepared-"));
  try {
    const path = join(folder, "a.bin");
    await writeAtomically(path, async (file) => {
      const writer = new PreparedWriter(file);
      for (let i = 0; i < rows.length; i += 30) await writer.append(blockOf(rows.slice(i, i + 30)));
      await writer.finish(details);
    });
    await use(path);
  } finally {
    await rm(folder, { recursive: true });
  }
}

test("blocks keep ids and masks", () => {
  const rows = randomRows(200, 1);
  assert.deepEqual([...rowsOfBlock(blockOf(rows))], rows);
  assert.deepEqual([...rowsOfBlock(blockOf([]))], []);
});

test("rows are read as they were written, in any order", async () => {
  const rows = randomRows(200, 2);
  await withFile(rows, async (path) => {
    const file = await PreparedFile.open(path);
    assert.deepEqual(file.details, details);
    assert.equal(file.length, 200);
    for (const i of new Rng(3).permutation(200)) {
      assert.deepEqual(file.get(i), rows[i]);
      assert.equal(file.lengthOf(i), rows[i]!.inputIds.length);
    }
    for (const index of [-1, 200, 0.5]) assert.throws(() => file.get(index), RangeError);
    file.close();
    assert.throws(() => file.get(0), /found a closed file/);
  });
  await withFile([], async (path) => assert.equal((await PreparedFile.open(path)).length, 0));
});

test("any byte changed, and any cut, is found", async () => {
  await withFile(randomRows(20, 4), async (path) => {
    const good = await readFile(path);
    const rng = new Rng(5);
    const positions = [0, good.length - 1, ...Array.from({ length: 40 }, () => good.length - 64 + rng.below(64))];
    for (let i = 0; i < 60; i++) positions.push(rng.below(good.length));
    for (const at of positions) {
      const bad = Buffer.from(good);
      bad[at]! ^= 1 << rng.below(8);
      await writeFile(path, bad);
      await assert.rejects(PreparedFile.open(path), FormatError, `byte ${at}`);
    }
    for (let i = 0; i < 40; i++) {
      await writeFile(path, good.subarray(0, rng.below(good.length)));
      await assert.rejects(PreparedFile.open(path), FormatError);
    }
    await writeFile(path, Buffer.concat([good, good]));
    await assert.rejects(PreparedFile.open(path), FormatError);
  });
});
