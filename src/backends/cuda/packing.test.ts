import assert from "node:assert/strict";
import { test } from "node:test";
import { collate } from "../../data/collate.ts";
import { packingOf } from "./packing.ts";

/** A batch of sequences of these lengths, padded to `tokens`. */
function packed(lengths: readonly number[], tokens?: number) {
  const rows = lengths.map((length) => [{ inputIds: new Int32Array(length), labels: new Int32Array(length) }]);
  const { seqStart, seqEnd } = collate(rows, tokens ?? lengths.reduce((a, b) => a + b, 0));
  return packingOf(seqStart, seqEnd);
}

test("equal sequences that fill the stream are a dense batch", () => {
  const packing = packed([256, 256, 256])!;
  assert.equal(packing.key, "equal:3x256");
  assert.deepEqual([...packing.starts], [0, 256, 512]);
  assert.deepEqual([...packing.lengths], [256, 256, 256]);
});

test("other lengths get room in powers of two; sequences of one token get none", () => {
  const packing = packed([300, 1, 20, 7], 400)!;
  assert.equal(packing.key, "ragged:4x512");
  assert.deepEqual([...packing.starts], [0, 301, 321, 400]);
  assert.deepEqual([...packing.lengths], [300, 20, 7, 0]);
  assert.equal(packing.longest, 300);
});

test("equal lengths with padding after them, or no multiple of 128, are ragged", () => {
  assert.equal(packed([128, 128], 320)!.key, "ragged:2x128");
  assert.equal(packed([100, 100])!.key, "ragged:2x128");
  assert.equal(packed([1, 128])!.equal, false);
  assert.equal(packed([128, 1])!.equal, false);
});

test("what is no packing has none", () => {
  assert.equal(packed([1, 1, 1]), null);
  assert.equal(packingOf(new Int32Array(0), new Int32Array(0)), null);
  assert.equal(packingOf(Int32Array.of(0, 0, 1), Int32Array.of(3, 3, 3)), null);
  assert.equal(packingOf(Int32Array.of(0, 0), Int32Array.of(2, 3)), null);
  assert.equal(packingOf(Int32Array.of(0, 0), Int32Array.of(3, 3)), null);
  assert.equal(packingOf(Int32Array.of(0, 1), Int32Array.of(0, 2)), null);
  assert.equal(packingOf(Int32Array.of(1, 1), Int32Array.of(2, 2)), null);
});
