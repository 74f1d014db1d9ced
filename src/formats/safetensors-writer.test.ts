import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { FormatError } from "./errors.ts";
import { fixtures, seededRandom, temporaryFolder } from "./files.test.support.ts";
import { openSafetensors, type SafetensorsSource, type TensorToWrite, writeSafetensors } from "./safetensors.ts";

const bytes = (...values: number[]) => Uint8Array.from(values);
const u8 = (name: string, data: TensorToWrite["data"], size = 4): TensorToWrite => ({
  name,
  dtype: "U8",
  shape: [size],
  data,
});

/** The tensors of a file in a random order. */
function shuffled(file: SafetensorsSource): TensorToWrite[] {
  const random = seededRandom(3);
  const tensors = [...file.tensors.values()].map(({ name, dtype, shape, byteLength }) => {
    const data = new Uint8Array(byteLength);
    file.readIntoSync(name, data);
    return { name, dtype, shape, data };
  });
  for (let i = tensors.length - 1; i > 0; i--) {
    const j = random(i + 1);
    [tensors[i], tensors[j]] = [tensors[j]!, tensors[i]!];
  }
  return tensors;
}

for (const name of ["dtypes", "names", "empty"]) {
  test(`writes the bytes that Python's safetensors wrote: ${name}`, async (t) => {
    const original = join(fixtures("formats"), `${name}.safetensors`);
    const path = join(temporaryFolder(t), "copy.safetensors");
    using file = openSafetensors(original);
    const metadata = file.metadata.size ? Object.fromEntries(file.metadata) : undefined;
    await writeSafetensors(path, shuffled(file), metadata);
    assert.deepEqual(readFileSync(path), readFileSync(original));
  });
}

test("writes every model and adapter of the Python fixtures as it is", async (t) => {
  const root = join(fixtures("oracle"), "families");
  const all = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".safetensors"));
  assert.ok(all.length >= 8);
  const path = join(temporaryFolder(t), "copy.safetensors");
  for (const name of all) {
    using file = openSafetensors(join(root, name));
    // With several keys the library's own order is random.
    if (file.metadata.size > 1) continue;
    await writeSafetensors(path, shuffled(file), file.metadata.size ? Object.fromEntries(file.metadata) : undefined);
    assert.ok(readFileSync(path).equals(readFileSync(join(root, name))), name);
  }
});

test("streams chunks in file order, from a reused buffer, sync or async, empty ones too", async (t) => {
  const path = join(temporaryFolder(t), "a.safetensors");
  const started: string[] = [];
  const buffer = new Uint8Array(2);
  function* chunks() {
    started.push("b");
    for (let i = 0; i < 2; i++) yield buffer.fill(i + 1);
  }
  async function* asyncChunks() {
    started.push("a");
    for (let i = 0; i < 2; i++) {
      await new Promise(setImmediate);
      yield new Uint8Array(0);
      yield buffer.fill(i + 8);
    }
  }
  await writeSafetensors(path, [u8("b", chunks()), u8("a", asyncChunks())], { z: "1", format: "pt" });
  assert.deepEqual(started, ["a", "b"]);
  const file = readFileSync(path);
  assert.deepEqual([...file.subarray(-8)], [8, 8, 9, 9, 1, 1, 2, 2]);
  assert.match(file.toString("latin1", 8), /^\{"__metadata__":\{"format":"pt","z":"1"\},"a":\{"dtype":"U8"/);
  assert.equal((file.length - 8) % 8, 0);
});

const wrong: [name: string, tensors: unknown[], message: RegExp][] = [
  ["too few bytes", [u8("a", bytes(1, 2, 3))], /tensor "a" data: found 3 bytes; expected 4 bytes/],
  ["too many bytes", [u8("a", [bytes(1, 2, 3), bytes(4, 5)])], /tensor "a" data: found at least 5 bytes; expected 4/],
  [
    "numbers for bytes",
    [u8("a", new Float32Array(1) as never)],
    /tensor "a" data: found 0; expected 4 bytes as Uint8Array/,
  ],
  ["a name twice", [u8("a", bytes(1), 1), u8("a", bytes(1), 1)], /tensor "a": found the name twice/],
  ["the reserved name", [u8("__metadata__", bytes(1), 1)], /found the reserved name/],
  ["a lone surrogate", [u8("\ud800", bytes(1), 1)], /found a lone surrogate in the name/],
  ["an unknown dtype", [{ ...u8("a", bytes(1)), dtype: "f32" }], /dtype: found "f32"; expected one of BOOL/],
  ["a bad shape", [{ ...u8("a", bytes(1)), shape: [-1] }], /shape: found \[-1\]; expected non-negative/],
];

for (const [name, tensors, message] of wrong) {
  test(`refuses ${name}, leaves the old file and no temporary one`, async (t) => {
    const folder = temporaryFolder(t);
    const path = join(folder, "a.safetensors");
    writeFileSync(path, "old");
    await assert.rejects(writeSafetensors(path, tensors as TensorToWrite[]), (error) => {
      assert.ok(error instanceof FormatError, String(error));
      assert.match(error.message, message);
      return true;
    });
    assert.equal(readFileSync(path, "utf8"), "old");
    assert.deepEqual(readdirSync(folder), ["a.safetensors"]);
  });
}

test("refuses metadata that is not text", async (t) => {
  const path = join(temporaryFolder(t), "a.safetensors");
  await assert.rejects(
    writeSafetensors(path, [], { step: 5 as unknown as string }),
    /__metadata__ "step": found 5; expected text/,
  );
});
