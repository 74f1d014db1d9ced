import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { gzipSync } from "node:zlib";
import { type CsvOptions, readCsv } from "./csv.ts";
import type { LocatedRow } from "./jsonl.ts";

let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "csv-"));
});
after(() => rm(folder, { recursive: true }));

async function records(contents: string | Buffer, options: CsvOptions = {}, name = "a.csv"): Promise<LocatedRow[]> {
  const path = join(folder, name);
  await writeFile(path, contents);
  const rows: LocatedRow[] = [];
  for await (const row of readCsv(path, options)) rows.push(row);
  return rows;
}
const rows = async (contents: string | Buffer, options?: CsvOptions): Promise<unknown[]> =>
  (await records(contents, options)).map(({ row }) => row);

test("quotes, doubled quotes, embedded line ends and delimiters, empty fields", async () => {
  assert.deepEqual(await rows('a,b\r\n1,"x, ""y""\r\nz"\r\n,\r\n"",""\r\n'), [
    { a: "1", b: 'x, "y"\r\nz' },
    { a: "", b: "" },
    { a: "", b: "" },
  ]);
  assert.deepEqual(await rows('a,b\n5" pipe, spaced \n'), [{ a: '5" pipe', b: " spaced " }]);
  assert.deepEqual(await rows('"a"\n"""quoted"""'), [{ a: '"quoted"' }]);
  assert.deepEqual(await rows("a\tb\n1,2\t3\n", { delimiter: "\t" }), [{ a: "1,2", b: "3" }]);
});

test("byte-order mark, blank lines, no last line end, an index without a name", async () => {
  assert.deepEqual(await rows("\ufeffa,b\n\n1,2\n\r\n3,4"), [
    { a: "1", b: "2" },
    { a: "3", b: "4" },
  ]);
  assert.deepEqual(await rows('\ufeff"a",b\n1,2\r'), [{ a: "1", b: "2" }]);
  assert.deepEqual(await rows(",text\n0,hi\n"), [{ "Unnamed: 0": "0", text: "hi" }]);
  assert.deepEqual(await rows("a,b\n"), []);
});

test("where a record came from is the line it starts at", async () => {
  const found = await records('a,b\n"1\n2",x\n\n3,"4\n"\n5,6\n');
  assert.deepEqual(
    found.map(({ where }) => where.split(":").at(-1)),
    ["2", "5", "7"],
  );
});

test("records, quotes and characters that span chunks", async () => {
  const values = Array.from({ length: 400 }, (_, i) => ({ i: String(i), text: '漢"🙂\r\n,'.repeat(900 + i) }));
  const text = `i,text\r\n${values.map(({ i, text }) => `${i},"${text.replaceAll('"', '""')}"`).join("\r\n")}`;
  assert.ok(Buffer.byteLength(text) > 4 * 2 ** 20);
  assert.deepEqual(await rows(text), values);
  const zipped = await records(gzipSync(text), {}, "a.csv.gz");
  assert.deepEqual(
    zipped.map(({ row }) => row),
    values,
  );
});

test("bad records are named, with what was found and what would work", async () => {
  await assert.rejects(rows(""), /a\.csv: header: found an empty file/);
  await assert.rejects(rows("a,b,a\n"), /a\.csv:1: header: found column "a" twice/);
  await assert.rejects(rows("a,b\n1,2\n\n1,2,3\n"), /a\.csv:4: record: found 3 fields; expected 2 \(a, b\)/);
  await assert.rejects(rows('a,b\n1,"2\n3,4\n'), /a\.csv:2: column 2: found a quote without its end/);
  await assert.rejects(rows('a,b\n"1"x,2\n'), /a\.csv:2: column 1: found "x,2.*" after the closing quote/);
  await assert.rejects(rows(Buffer.from([0x61, 0x0a, 0xff, 0x0a])), /not UTF-8/);
  await assert.rejects(rows(Buffer.from([0x61, 0x0a, 0xe6, 0xbc])), /not UTF-8/);
  await assert.rejects(rows("a\n1\n", { delimiter: "" }), /delimiter: found ""/);
  await assert.rejects(rows("a\n1\n", { delimiter: '"' }), RangeError);
  await assert.rejects(records("not gzip", {}, "b.csv.gz"), /b\.csv\.gz: contents: found .*expected gzip data/);
});

test("a quote left open is refused before it fills the memory", async () => {
  await assert.rejects(rows(`a\n"${"x".repeat(9 * 2 ** 20)}`, { maxRecordLength: 2 ** 20 }), /:2: record: found more/);
  await assert.rejects(rows(`a\n${"x".repeat(200)}\n`, { maxRecordLength: 100 }), /more than 100 characters/);
});
