import assert from "node:assert/strict";
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { assertFormatError, fixtures, temporaryFolder } from "./files.test.support.ts";
import { array, craftGguf, type GgufParts, kv, str, tensor, u32, u64 } from "./gguf.test.support.ts";
import { openGguf } from "./gguf.ts";

test("reads a value of every type that gguf-py wrote", () => {
  using file = openGguf(join(fixtures("formats"), "values.gguf"));
  assert.equal(file.version, 3);
  assert.equal(file.alignment, 64);
  const { metadata } = file;
  const expected: Record<string, unknown> = {
    uint8: 255,
    int8: -128,
    uint16: 65535,
    int16: -32768,
    uint32: 2 ** 32 - 1,
    int32: -(2 ** 31),
    float32: 1.5,
    uint64: 2n ** 64n - 1n,
    int64: -(2n ** 63n),
    float64: 0.1,
    bool: true,
    string: "naïve 😀 \ufffd",
  };
  for (const [type, value] of Object.entries(expected)) assert.deepEqual(metadata.get(`t.${type}`), { type, value });
  const arrays: Record<string, unknown> = {
    uint8: Uint8Array.of(1, 255),
    int16: Int16Array.of(-1, 2),
    uint64: BigUint64Array.of(2n ** 64n - 1n),
    int32: Int32Array.of(1, -2, 3),
    float32: Float32Array.of(0.5, -2),
    bool: Uint8Array.of(1, 0),
    string: ["a", "", "▁the"],
    array: [
      { type: "array", elementType: "string", value: ["x", "y"] },
      { type: "array", elementType: "string", value: ["z"] },
    ],
  };
  for (const [elementType, value] of Object.entries(arrays))
    assert.deepEqual(metadata.get(`a.${elementType}`), { type: "array", elementType, value });
  assert.equal(metadata.size, 22);
});

test("reads tensors and ranges of them", async () => {
  const file = openGguf(join(fixtures("formats"), "values.gguf"));
  assert.deepEqual([...file.tensors.keys()], ["m", "i"]);
  const { type, shape, byteLength } = file.tensors.get("m")!;
  assert.deepEqual({ type, shape, byteLength }, { type: "F32", shape: [2, 3], byteLength: 24 });
  const m = new Float32Array(6);
  await file.readInto("m", new Uint8Array(m.buffer));
  assert.deepEqual([...m], [0, 1, 2, 3, 4, 5]);
  const i = new Uint8Array(3);
  file.readIntoSync("i", i, 2);
  assert.deepEqual([...i], [2, 3, 4]);
  assertFormatError(() => file.readIntoSync("j", i), /values\.gguf: tensor "j": found no such tensor/);
  file.close();
  await assert.rejects(file.readInto("i", i, 2), /found a closed file/);
});

const good = (parts: GgufParts) => {
  const { kvs = [], tensors = [] } = parts;
  return { kvs: [kv("general.architecture", 8, str("llama")), ...kvs], tensors: [tensor("a", [4], 0, 0), ...tensors] };
};

test("version 2, no tensors, an empty array and a scalar tensor are read", (t) => {
  const path = join(temporaryFolder(t), "a.gguf");
  writeFileSync(path, craftGguf({ version: 2, kvs: [kv("e", 9, array(4, 0))] }));
  using file = openGguf(path);
  assert.equal(file.version, 2);
  assert.deepEqual(file.metadata.get("e"), { type: "array", elementType: "uint32", value: new Uint32Array(0) });
  const scalar = join(temporaryFolder(t), "b.gguf");
  writeFileSync(scalar, craftGguf({ tensors: [tensor("s", [], 0, 0), tensor("z", [0, 5], 0, 32)], data: 64 }));
  using other = openGguf(scalar);
  assert.deepEqual(other.tensors.get("s")!.shape, []);
  assert.deepEqual(other.tensors.get("z")!.shape, [5, 0]);
});

const nested = (depth: number): Buffer => (depth === 0 ? array(0, 0) : array(9, 1, nested(depth - 1)));

const malformed: [name: string, parts: GgufParts, message: RegExp][] = [
  ["another magic", { magic: "GGML" }, /magic: found 0x4c4d4747; expected the bytes GGUF/],
  ["version 1", { version: 1 }, /version: found version 1; expected version 2 or 3/],
  ["version 0", { version: 0 }, /version: found version 0/],
  ["version 4", { version: 4 }, /version: found version 4/],
  ["a big-endian file", { version: 0x03000000 }, /version: found a big-endian file; expected a little-endian one/],
  ["too many keys", { kvCount: 2n ** 63n }, /metadata count: found 9223372036854775808; expected at most 65536/],
  ["too many tensors", { tensorCount: 2n ** 40n }, /tensor count: found 1099511627776; expected at most 262144/],
  ["fewer keys than said", { kvCount: 1 }, /metadata key 0: found 8 bytes at byte 24; expected at most the 0 bytes/],
  ["an empty key", { kvs: [kv("", 0, Buffer.of(1))] }, /metadata key 0: found ""; expected 1 to 65535 bytes/],
  ["a key twice", { kvs: [kv("k", 0, Buffer.of(1)), kv("k", 0, Buffer.of(1))] }, /metadata key 1: found "k" again/],
  ["an unknown type", { kvs: [kv("k", 13)] }, /metadata "k": found type 13; expected a type from 0 to 12/],
  ["a boolean of 2", { kvs: [kv("k", 7, Buffer.of(2))] }, /metadata "k": found a boolean of 2; expected 0 or 1/],
  ["a boolean of 2 in an array", { kvs: [kv("k", 9, array(7, 2, Buffer.of(1, 2)))] }, /found a boolean of 2/],
  [
    "a string beyond the end",
    { kvs: [kv("k", 8, u64(2n ** 62n))] },
    /metadata "k": found 46116860184273\d+ bytes at byte/,
  ],
  [
    "a string not UTF-8",
    { kvs: [kv("k", 8, str(Buffer.of(0xc3, 0x28)))] },
    /found a string at byte 45 that is not UTF-8/,
  ],
  [
    "an array count of 2^60",
    { kvs: [kv("k", 9, array(8, 2n ** 60n))] },
    /found 1152921504606846976; expected an element count/,
  ],
  [
    "an array beyond the end",
    { kvs: [kv("k", 9, array(12, 2, u64(0), u32(0)))] },
    /found 16 bytes at byte 49; expected at most the 12/,
  ],
  [
    "strings beyond the end",
    { kvs: [kv("k", 9, array(8, 9, str("a")))] },
    /found 8 bytes at byte 58; expected at most the 0 bytes/,
  ],
  ["an unknown element type", { kvs: [kv("k", 9, array(99, 0))] }, /metadata "k": found type 99/],
  [
    "arrays nested too deep",
    { kvs: [kv("k", 9, nested(4))] },
    /metadata "k": found arrays nested 5 deep; expected at most 4/,
  ],
  ["alignment of another type", { kvs: [kv("general.alignment", 10, u64(32))] }, /alignment: found type uint64/],
  [
    "alignment 0",
    { kvs: [kv("general.alignment", 4, u32(0))] },
    /general\.alignment: found 0; expected a power of two/,
  ],
  ["alignment 48", { kvs: [kv("general.alignment", 4, u32(48))] }, /general\.alignment: found 48/],
  ["alignment 2^31", { kvs: [kv("general.alignment", 4, u32(2 ** 31))] }, /general\.alignment: found 2147483648/],
  ["a tensor without a name", { tensors: [tensor("", [1], 0, 0)] }, /tensor 0 name: found ""/],
  ["a tensor twice", good({ tensors: [tensor("a", [1], 0, 32)] }), /found the name again/],
  [
    "five dimensions",
    { tensors: [tensor("a", [1, 1, 1, 1, 1], 0, 0)] },
    /tensor "a" dimensions: found 5; expected at most 4/,
  ],
  ["a size of 2^63", { tensors: [tensor("a", [2n ** 63n], 0, 0)] }, /tensor "a" shape: found 9223372036854775808/],
  [
    "overflowing sizes",
    { tensors: [tensor("a", [2 ** 30, 2 ** 30], 0, 0)] },
    /shape: found \[1073741824, 1073741824\]; expected fewer/,
  ],
  [
    "an unknown tensor type",
    { tensors: [tensor("a", [4], 99, 0)] },
    /tensor "a" type: found id 99; expected the id of one of F32/,
  ],
  ["a removed tensor type", { tensors: [tensor("a", [32], 4, 0)] }, /tensor "a" type: found id 4/],
  [
    "a partial block",
    { tensors: [tensor("a", [48, 2], 2, 0)] },
    /found \[2, 48\]; expected rows of a multiple of 32 .* Q4_0/,
  ],
  [
    "an offset off the alignment",
    { tensors: [tensor("a", [4], 0, 16)] },
    /offset: found 16; expected a multiple of the alignment, 32/,
  ],
  [
    "an offset of 2^63",
    { tensors: [tensor("a", [4], 0, 2n ** 63n)] },
    /offset: found 9223372036854775808; expected an offset within/,
  ],
  [
    "a tensor beyond the end",
    { ...good({}), data: 15 },
    /tensor "a": found bytes 128 to 144; expected bytes within the file's 143/,
  ],
  [
    "an overlap",
    { ...good({ tensors: [tensor("b", [4], 0, 0)] }), data: 64 },
    /tensor "b": .*, which overlap tensor "a"/,
  ],
  [
    "a partial overlap",
    { tensors: [tensor("a", [9], 0, 0), tensor("b", [4], 0, 32)], data: 64 },
    /"b": .*, which overlap tensor "a"/,
  ],
];

for (const [name, parts, message] of malformed) {
  test(`refuses: ${name}`, (t) => {
    const path = join(temporaryFolder(t), "bad.gguf");
    writeFileSync(path, craftGguf(parts));
    assertFormatError(() => openGguf(path), message);
    assertFormatError(() => openGguf(path), /bad\.gguf: /);
  });
}

test("refuses what would take far more memory than file: a sparse file of nested arrays, or of a long one", (t) => {
  const path = join(temporaryFolder(t), "bad.gguf");
  writeFileSync(path, craftGguf({ kvs: [kv("k", 9, array(9, 10_000_000))] }));
  truncateSync(path, 2 ** 40);
  assertFormatError(() => openGguf(path), /found more nested arrays; expected at most 65536/);
  writeFileSync(path, craftGguf({ kvs: [kv("k", 9, array(0, 2 ** 36))] }));
  truncateSync(path, 2 ** 40);
  assertFormatError(() => openGguf(path), /found 68719476736; expected an element count within the \d+ bytes left/);
  writeFileSync(path, craftGguf({ kvs: [kv("k", 8, u64(2 ** 36))] }));
  truncateSync(path, 2 ** 40);
  assertFormatError(() => openGguf(path), /at most the \d+ bytes to the limit of a header/);
});

test("a header larger than the window, with long strings and arrays across its edges", (t) => {
  const path = join(temporaryFolder(t), "a.gguf");
  const tokens = Array.from({ length: 150_000 }, (_, i) => `▁token${i}`);
  const scores = Float32Array.from(tokens, (_, i) => -i);
  const long = "x".repeat(3 * 2 ** 20);
  const kvs = [
    kv("tokens", 9, array(8, tokens.length, Buffer.concat(tokens.map(str)))),
    kv("scores", 9, array(6, scores.length, Buffer.from(scores.buffer))),
    kv("long", 8, str(long)),
    kv("wide", 9, array(0, long.length, Buffer.from(long))),
    kv("last", 0, Buffer.of(7)),
  ];
  writeFileSync(path, craftGguf({ kvs, tensors: [tensor("a", [4], 0, 0)], data: 16 }));
  using file = openGguf(path);
  assert.deepEqual(file.metadata.get("tokens"), { type: "array", elementType: "string", value: tokens });
  assert.deepEqual(file.metadata.get("scores"), { type: "array", elementType: "float32", value: scores });
  assert.deepEqual(file.metadata.get("long"), { type: "string", value: long });
  assert.deepEqual(file.metadata.get("wide"), {
    type: "array",
    elementType: "uint8",
    value: new Uint8Array(long.length).fill(120),
  });
  assert.deepEqual(file.metadata.get("last"), { type: "uint8", value: 7 });
  const data = new Uint8Array(16);
  file.readIntoSync("a", data);
  assert.deepEqual(
    [...data],
    Array.from({ length: 16 }, (_, i) => i),
  );
});
