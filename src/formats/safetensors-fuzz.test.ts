import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { FormatError } from "./errors.ts";
import { seededRandom, temporaryFolder, withBytes } from "./files.test.support.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";

const bytes = (n: number, value: number) => new Uint8Array(n).fill(value);

async function sample(folder: string): Promise<Buffer> {
  const path = join(folder, "sample.safetensors");
  await writeSafetensors(
    path,
    [
      { name: "model.layers.0.weight", dtype: "BF16", shape: [4, 8], data: bytes(64, 1) },
      { name: "model.norm", dtype: "F32", shape: [8], data: bytes(32, 2) },
      { name: "quant", dtype: "U8", shape: [3, 1], data: bytes(3, 3) },
      { name: "scalar", dtype: "I64", shape: [], data: bytes(8, 4) },
      { name: "empty", dtype: "F16", shape: [0], data: bytes(0, 0) },
    ],
    { format: "pt" },
  );
  return readFileSync(path);
}

/** Opens and reads everything; true if the file was accepted. Whatever else than a FormatError is thrown goes through. */
function accepts(path: string): boolean {
  try {
    using file = openSafetensors(path);
    for (const [name, { byteLength }] of file.tensors) file.readIntoSync(name, new Uint8Array(byteLength));
    return true;
  } catch (error) {
    if (error instanceof FormatError) return false;
    throw error;
  }
}

test("truncation at every byte is refused", async (t) => {
  const folder = temporaryFolder(t);
  const whole = await sample(folder);
  const path = join(folder, "cut.safetensors");
  assert.ok(withBytes(path, whole, accepts));
  for (let length = 0; length < whole.length; length++)
    assert.ok(!withBytes(path, whole.subarray(0, length), accepts), `cut at ${length}`);
});

test("3000 files with flipped, replaced, removed or inserted bytes: accepted or FormatError, nothing else", async (t) => {
  const folder = temporaryFolder(t);
  const whole = await sample(folder);
  const headerEnd = 8 + Number(whole.readBigUInt64LE());
  const path = join(folder, "bad.safetensors");
  const random = seededRandom(1);
  const interesting = Buffer.from('{}[]",:0123456789-.eE\\u \0\xff', "latin1");
  let refused = 0;
  for (let i = 0; i < 3000; i++) {
    let copy = Buffer.from(whole);
    for (let edits = 1 + random(3); edits > 0; edits--) {
      const at = random(headerEnd);
      const kind = random(4);
      if (kind === 0) copy[at]! ^= 1 << random(8);
      else if (kind === 1) copy[at] = interesting[random(interesting.length)]!;
      else if (kind === 2) copy = Buffer.concat([copy.subarray(0, at), copy.subarray(at + 1 + random(8))]);
      else copy = Buffer.concat([copy.subarray(0, at), copy.subarray(random(headerEnd), headerEnd), copy.subarray(at)]);
    }
    if (!withBytes(path, copy, accepts)) refused++;
  }
  // Edits inside names and metadata leave a valid file; most others must not.
  assert.ok(refused > 2000 && refused < 3000, `${refused} refused`);
});

test("2000 headers with wild numbers in the place of shapes and offsets", async (t) => {
  const folder = temporaryFolder(t);
  const whole = await sample(folder);
  const headerEnd = 8 + Number(whole.readBigUInt64LE());
  const header = whole.toString("utf8", 8, headerEnd);
  const numbers = [...header.matchAll(/\d+/g)];
  const wild = [
    "-1",
    "1e308",
    "1e999",
    "9007199254740993",
    "18446744073709551615",
    "0.5",
    "null",
    '"8"',
    "[]",
    "{}",
    "4294967296",
  ];
  const path = join(folder, "bad.safetensors");
  const random = seededRandom(2);
  for (let i = 0; i < 2000; i++) {
    const match = numbers[random(numbers.length)]!;
    const value = random(3) === 0 ? String(random(200)) : wild[random(wild.length)]!;
    const json = Buffer.from(header.slice(0, match.index) + value + header.slice(match.index + match[0].length));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(json.length));
    const bad = Buffer.concat([length, json, whole.subarray(headerEnd)]);
    // A number inside a name, or the same number again, leaves the file valid.
    const same = value === match[0] || header[match.index - 1] === ".";
    if (!same && !/[A-Z_]/.test(header[match.index - 1]!)) assert.ok(!withBytes(path, bad, accepts), json.toString());
    else withBytes(path, bad, accepts);
  }
});
