import assert from "node:assert/strict";
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { assertFormatError, temporaryFolder } from "./files.test.support.ts";
import { openSafetensors } from "./safetensors.ts";

/** The bytes of a file with this header text (or object) and data. */
function craft(header: unknown, data: Uint8Array | number = 0, declaredLength?: bigint): Buffer {
  const json = Buffer.isBuffer(header)
    ? header
    : Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(declaredLength ?? BigInt(json.length));
  return Buffer.concat([length, json, typeof data === "number" ? Buffer.alloc(data) : data]);
}

const entry = (dtype: unknown, shape: unknown, begin: unknown, end: unknown) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

test("reads header, metadata, and ranges of tensors, sync and async", async (t) => {
  const path = join(temporaryFolder(t), "a.safetensors");
  const data = Buffer.from(Array.from({ length: 28 }, (_, i) => i));
  const header = {
    "b.bias": entry("BF16", [], 24, 26),
    __metadata__: { format: "pt" },
    empty: entry("F32", [0, 3], 26, 26),
    a: entry("F32", [2, 3], 0, 24),
    "": entry("U8", [2], 26, 28),
  };
  writeFileSync(path, craft(header, data));
  const file = openSafetensors(path);
  t.after(() => file.close());
  assert.deepEqual([...file.tensors.keys()], ["a", "b.bias", "empty", ""]);
  assert.deepEqual([...file.metadata], [["format", "pt"]]);
  const { dtype, shape, byteLength } = file.tensors.get("a")!;
  assert.deepEqual({ dtype, shape, byteLength }, { dtype: "F32", shape: [2, 3], byteLength: 24 });

  const whole = new Uint8Array(30).fill(255);
  file.readIntoSync("a", whole);
  assert.deepEqual([...whole], [...data.subarray(0, 24), 255, 255, 255, 255, 255, 255]);
  const part = new Uint8Array(4);
  await file.readInto("a", part, 5, 4);
  assert.deepEqual([...part], [5, 6, 7, 8]);
  await file.readInto("b.bias", part.subarray(1), 1);
  assert.deepEqual([...part], [5, 25, 7, 8]);
  await file.readInto("empty", new Uint8Array(0));
  assertFormatError(
    () => file.readIntoSync("c", part),
    /a\.safetensors: tensor "c": found no such tensor; expected one of its 4/,
  );
  assertFormatError(() => file.readIntoSync("a", part), /found a target of 4 bytes; expected room for the 24 bytes/);
  assertFormatError(
    () => file.readIntoSync("a", part, 23, 2),
    /found a read of 2 bytes at offset 23; expected at most 1/,
  );
  assertFormatError(
    () => file.readIntoSync("a", part, 25),
    /found a read at offset 25; expected an offset within its 24/,
  );
  assertFormatError(() => file.readIntoSync("a", part, -1, 1), /found a read at offset -1/);
  assertFormatError(() => file.readIntoSync("a", part, 0, Number.NaN), /found a read of NaN bytes/);
});

const ok = entry("F32", [1], 0, 4);
const malformed: [name: string, bytes: Uint8Array, message: RegExp][] = [
  ["empty file", Buffer.alloc(0), /file length: found 0 bytes; expected at least 8/],
  ["length alone", Buffer.alloc(8), /header: found invalid JSON/],
  ["header longer than the file", craft("{}", 0, 3n), /header length: found 3 bytes; expected at most 2/],
  ["header of 2^64 - 1", craft("{}", 0, 2n ** 64n - 1n), /header length: found 18446744073709551615 bytes/],
  ["header not UTF-8", craft(Buffer.from([0x7b, 0xff, 0x7d])), /header: found bytes that are not UTF-8/],
  ["header with a byte order mark", craft("\ufeff{}"), /header: found invalid JSON/],
  ["header not JSON", craft('{"a":'), /header: found invalid JSON .*; expected a JSON object/],
  ["header an array", craft([]), /header: found \[\]; expected a JSON object/],
  ["header null", craft("null"), /header: found null/],
  ["deep nesting", craft(`{"a":${"[".repeat(1e5)}${"]".repeat(1e5)}}`), /tensor "a": found \[\[…\]\]/],
  [
    "duplicate tensor",
    craft(
      '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    ),
    /found the key "a" twice/,
  ],
  [
    "duplicate field",
    craft('{"a":{"dtype":"U8","shape":[0],"shape":[0],"data_offsets":[0,0]}}'),
    /found the key "shape" twice/,
  ],
  ["entry not an object", craft({ a: 3 }), /tensor "a": found 3; expected an object/],
  ["metadata not an object", craft({ __metadata__: [1] }), /__metadata__: found \[1\]; expected an object of strings/],
  ["metadata not strings", craft({ __metadata__: { x: 1 } }), /__metadata__ "x": found 1; expected a string/],
  [
    "unknown dtype",
    craft({ a: entry("F128", [1], 0, 16) }, 16),
    /dtype: found "F128"; expected one of BOOL, .*F8_E4M3.*F32/,
  ],
  ["dtype of the prototype", craft({ a: entry("toString", [1], 0, 16) }, 16), /dtype: found "toString"/],
  ["no dtype", craft({ a: { shape: [], data_offsets: [0, 0] } }), /dtype: found nothing/],
  ["shape missing", craft({ a: { dtype: "U8", data_offsets: [0, 0] } }), /shape: found nothing; expected an array/],
  ["negative size", craft({ a: entry("U8", [-1], 0, 1) }, 1), /shape: found \[-1\]; expected non-negative integers/],
  ["fractional size", craft({ a: entry("U8", [1.5], 0, 1) }, 1), /shape: found \[1\.5\]/],
  ["size a string", craft({ a: entry("U8", ["1"], 0, 1) }, 1), /shape: found \["1"\]/],
  [
    "overflowing shape",
    craft({ a: entry("F32", [2 ** 30, 2 ** 30], 0, 4) }, 4),
    /shape: found \[1073741824, 1073741824\]/,
  ],
  ["overflow beside a zero", craft({ a: entry("F32", [0, 2 ** 52], 0, 0) }), /shape: found/],
  [
    "half a byte",
    craft({ a: entry("F4", [3], 0, 2) }, 2),
    /shape: found \[3\]; expected .* F4 elements fill whole bytes/,
  ],
  ["offsets reversed", craft({ a: entry("U8", [1], 4, 3) }, 4), /data_offsets: found \[4, 3\]/],
  ["offsets negative", craft({ a: entry("U8", [1], -1, 0) }, 4), /data_offsets: found \[-1, 0\]/],
  ["offsets of three", craft({ a: { ...ok, data_offsets: [0, 4, 4] } }, 4), /data_offsets: found \[0, 4, 4\]/],
  ["offsets too large", craft({ a: { ...ok, data_offsets: [2 ** 53, 2 ** 53 + 4] } }, 4), /data_offsets: found/],
  ["wrong length", craft({ a: entry("F32", [2], 0, 4) }, 4), /found 4 bytes; expected the 8 bytes of F32 \[2\]/],
  [
    "overlap",
    craft({ a: ok, b: entry("F32", [1], 2, 6) }, 6),
    /tensor "b" data_offsets: found begin 2, which overlaps "a"; expected begin 4/,
  ],
  ["same bytes twice", craft({ a: ok, b: ok }, 4), /tensor "b" data_offsets: found begin 0, which overlaps "a"/],
  [
    "gap",
    craft({ a: ok, b: entry("F32", [1], 5, 9) }, 9),
    /found begin 5, which leaves a gap after "a"; expected begin 4/,
  ],
  ["gap before the first", craft({ a: entry("F32", [1], 4, 8) }, 8), /leaves a gap after the header; expected begin 0/],
  [
    "file cut",
    craft({ a: ok }, 3),
    /file length: found 3 bytes after the header \(an incomplete download or copy\?\); expected the 4/,
  ],
  ["bytes after the data", craft({ a: ok }, 5), /file length: found 5 bytes after the header; expected the 4/],
];

for (const [name, bytes, message] of malformed) {
  test(`refuses: ${name}`, (t) => {
    const path = join(temporaryFolder(t), "bad.safetensors");
    writeFileSync(path, bytes);
    assertFormatError(() => openSafetensors(path), message);
    assertFormatError(() => openSafetensors(path), /bad\.safetensors: /);
  });
}

test("refuses a header over the limit of the library even when the file is that long", (t) => {
  const path = join(temporaryFolder(t), "bad.safetensors");
  writeFileSync(path, craft("{}", 0, 100_000_001n));
  truncateSync(path, 200_000_000);
  assertFormatError(() => openSafetensors(path), /header length: found 100000001 bytes; expected at most 100000000/);
});

test("a missing file and a folder are FormatErrors", (t) => {
  const folder = temporaryFolder(t);
  assertFormatError(() => openSafetensors(join(folder, "none")), /none: file: found ENOENT/);
  assertFormatError(() => openSafetensors(folder), /found a folder or device; expected a regular file/);
});

test("a file cut short after opening, or closed, fails the read", async (t) => {
  const path = join(temporaryFolder(t), "a.safetensors");
  writeFileSync(path, craft({ a: entry("U8", [100], 0, 100) }, 100));
  const file = openSafetensors(path);
  const target = new Uint8Array(100);
  truncateSync(path, 120);
  const cut = /tensor "a": found the end of the file at byte 120; expected 100 bytes from byte 6\d/;
  assertFormatError(() => file.readIntoSync("a", target), cut);
  await assert.rejects(file.readInto("a", target), cut);
  const inFlight = file.readInto("a", target, 0, 10);
  file.close();
  file.close();
  await inFlight;
  assertFormatError(() => file.readIntoSync("a", target), /found a closed file/);
  await assert.rejects(file.readInto("a", target), /found a closed file/);
});

test("quotes and brackets inside strings are no keys", (t) => {
  const path = join(temporaryFolder(t), "a.safetensors");
  const tricky = '":1,"k":1,"k":1,{[\\';
  writeFileSync(path, craft({ __metadata__: { [tricky]: tricky, k: "" } }));
  using file = openSafetensors(path);
  assert.deepEqual(
    [...file.metadata],
    [
      [tricky, tricky],
      ["k", ""],
    ],
  );
});

test("a name like a prototype's is a plain name", (t) => {
  const path = join(temporaryFolder(t), "a.safetensors");
  writeFileSync(path, craft('{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1));
  using file = openSafetensors(path);
  assert.deepEqual([...file.tensors.keys()], ["__proto__"]);
});
