import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type LocatedRow, readJsonArray, readJsonl } from "./jsonl.ts";

let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "jsonl-"));
});
after(() => rm(folder, { recursive: true }));

async function write(contents: string | Buffer): Promise<string> {
  const path = join(folder, "train.jsonl");
  await writeFile(path, contents);
  return path;
}

async function lines(contents: string | Buffer, maxLineBytes?: number): Promise<LocatedRow[]> {
  const path = await write(contents);
  const rows: LocatedRow[] = [];
  for await (const row of readJsonl(path, maxLineBytes === undefined ? {} : { maxLineBytes })) rows.push(row);
  return rows;
}

test("byte-order mark, CRLF, blank lines and a last line without an end", async () => {
  const rows = await lines('\ufeff{"a": 1}\r\n\r\n   \n{"a": "\\u00e9é\u2028"}\n\n{"a": {"b": [null]}}');
  assert.deepEqual(
    rows.map(({ row }) => row),
    [{ a: 1 }, { a: "éé\u2028" }, { a: { b: [null] } }],
  );
  assert.deepEqual(
    rows.map(({ where }) => where.split(":").at(-1)),
    ["1", "4", "6"],
  );
  assert.deepEqual(await lines(""), []);
  assert.deepEqual(await lines("\n\n"), []);
});

test("lines and characters that span chunks", async () => {
  const rows = Array.from({ length: 300 }, (_, i) => ({ i, text: "é漢🙂".repeat(1000 + i) }));
  const found = await lines(rows.map((row) => JSON.stringify(row)).join("\n"));
  assert.deepEqual(
    found.map(({ row }) => row),
    rows,
  );
});

test("a bad line is named, with what was found and what would work", async () => {
  await assert.rejects(
    lines('{"a": 1}\n\n{"a": }\n'),
    /train\.jsonl:3: line: found "\{\\"a\\": \}" \(.*\); expected a JSON object/,
  );
  await assert.rejects(lines('{"a": 1}\n[1]\n'), /train\.jsonl:2: row: found \[1\]; expected an object/);
  await assert.rejects(lines("null\n"), /:1: row: found null/);
  await assert.rejects(lines("[\n"), /:1: line: .*this looks like a JSON array/);
  await assert.rejects(
    lines(Buffer.from([0x7b, 0x7d, 0x0a, 0x22, 0xff, 0x22])),
    /:2: text: found bytes that are not UTF-8/,
  );
  await assert.rejects(lines(`{"a": "${"x".repeat(99)}`), /:1: line: found ".*… \(106 characters\)/);
  await assert.rejects(
    lines("{}\n".repeat(3) + " ".repeat(100), 64),
    /:4: line: found 100 bytes or more; expected at most 64/,
  );
  await assert.rejects(lines(`{"a": "${"x".repeat(100)}"}\n`, 64), /:1: line: .*at most 64 \(maxLineBytes\)/);
  await assert.rejects(async () => {
    for await (const _ of readJsonl(join(folder, "none.jsonl")));
  }, /ENOENT/);
});

test("a line without end is refused before it fills the memory", async () => {
  await assert.rejects(lines(Buffer.alloc(8 * 2 ** 20, 0x61), 2 ** 20), /at most 1048576/);
});

test("JSON arrays", async () => {
  const rows = await readJsonArray(await write('\ufeff[{"a": 1}, {"b": 2}]\n'));
  assert.deepEqual(
    rows.map(({ row }) => row),
    [{ a: 1 }, { b: 2 }],
  );
  assert.match(rows[1]!.where, /train\.jsonl\[1\]$/);
  await assert.rejects(
    readJsonArray(await write('{"data": []}')),
    /found an object with \["data"\]; expected an array of objects/,
  );
  await assert.rejects(readJsonArray(await write("[{}, 7]")), /train\.jsonl\[1\]: row: found 7/);
  await assert.rejects(
    readJsonArray(await write('{"a": 1}\n{"a": 2}\n')),
    /:2: contents: .*this looks like JSON Lines/,
  );
  await assert.rejects(readJsonArray(await write('[{"a": 1,\n\n"b" 2}]')), /:3: contents/);
});
