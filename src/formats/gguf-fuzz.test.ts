import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { FormatError } from "./errors.ts";
import { fixtures, seededRandom, temporaryFolder, withBytes } from "./files.test.support.ts";
import { openGguf } from "./gguf.ts";
import { dequantizeBlocks, isDequantizable } from "./gguf-quants.ts";

/** Opens, reads and decodes everything; true if all went well. Whatever else than a FormatError is thrown goes through. */
function accepts(path: string): boolean {
  try {
    using file = openGguf(path);
    for (const [name, { type, shape, byteLength }] of file.tensors) {
      const bytes = new Uint8Array(byteLength);
      file.readIntoSync(name, bytes);
      if (isDequantizable(type)) dequantizeBlocks(type, bytes, new Float32Array(shape.reduce((a, b) => a * b, 1)));
    }
    return true;
  } catch (error) {
    if (error instanceof FormatError) return false;
    throw error;
  }
}

// The last tensor's bytes end at 965; gguf-py pads the file to the alignment.
const whole = readFileSync(join(fixtures("formats"), "values.gguf")).subarray(0, 965);
const HEADER_BYTES = 849;

test("truncation at every byte is refused", (t) => {
  const path = join(temporaryFolder(t), "cut.gguf");
  assert.ok(withBytes(path, whole, accepts));
  for (let length = 0; length < whole.length; length++)
    assert.ok(!withBytes(path, whole.subarray(0, length), accepts), `cut at ${length}`);
});

test("3000 files with flipped, replaced, removed or repeated bytes: accepted or FormatError, nothing else", (t) => {
  const path = join(temporaryFolder(t), "bad.gguf");
  const random = seededRandom(1);
  const interesting = [0, 1, 2, 3, 4, 8, 9, 10, 12, 13, 31, 32, 127, 128, 255];
  let refused = 0;
  for (let i = 0; i < 3000; i++) {
    let copy = Buffer.from(whole);
    for (let edits = 1 + random(3); edits > 0; edits--) {
      const at = random(HEADER_BYTES);
      const kind = random(5);
      if (kind === 0) copy[at]! ^= 1 << random(8);
      else if (kind === 1) copy[at] = interesting[random(interesting.length)]!;
      else if (kind === 2) copy.fill(random(2) * 255, at, at + 1 + random(8));
      else if (kind === 3) copy = Buffer.concat([copy.subarray(0, at), copy.subarray(at + 1 + random(8))]);
      else copy = Buffer.concat([copy.subarray(0, at), copy.subarray(random(HEADER_BYTES)), copy]);
    }
    if (!withBytes(path, copy, accepts)) refused++;
  }
  // Edits inside values and names leave a valid file; most others must not.
  assert.ok(refused > 1500 && refused < 3000, `${refused} refused`);
});

test("every byte of the header set to 0xff, and every bit of it flipped, one at a time", (t) => {
  const path = join(temporaryFolder(t), "bad.gguf");
  for (let at = 0; at < HEADER_BYTES; at++) {
    for (const mask of [0xff & ~whole[at]!, 1 << (at % 8)]) {
      const copy = Buffer.from(whole);
      copy[at]! ^= mask;
      withBytes(path, copy, accepts);
    }
  }
});
