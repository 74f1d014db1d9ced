import assert from "node:assert/strict";
import { test } from "node:test";
import { bucketLength, collate, type TokenizedRow } from "./collate.ts";

const row = (ids: number[], labels = ids): TokenizedRow => ({
  inputIds: Int32Array.from(ids),
  labels: Int32Array.from(labels),
});

test("a batch holds the sequences end to end, labels shifted within each, one-token padding after", () => {
  const batch = collate([[row([1, 2, 3]), row([4, 5], [-100, 5])], [row([6])]], 9, 7);
  assert.deepEqual([...batch.inputIds], [1, 2, 3, 4, 5, 6, 7, 7, 7]);
  assert.deepEqual([...batch.positions], [0, 1, 2, 0, 1, 0, 0, 0, 0]);
  assert.deepEqual([...batch.seqStart], [0, 0, 0, 3, 3, 5, 6, 7, 8]);
  assert.deepEqual([...batch.seqEnd], [3, 3, 3, 5, 5, 6, 7, 8, 9]);
  assert.deepEqual([...batch.labels], [2, 3, -100, 5, -100, -100, -100, -100, -100]);
  assert.equal(batch.numTargets, 3);
  assert.equal(batch.numTokens, 6);
});

test("a sequence's first label never counts, whatever it is", () => {
  const { labels, numTargets } = collate([[row([1, 2], [9, -100]), row([3, 4], [9, 4])]]);
  assert.deepEqual([...labels.subarray(0, 4)], [-100, -100, 4, -100]);
  assert.equal(numTargets, 1);
});

test("sizes: the default bucket, an empty batch, too small a bucket, unequal labels", () => {
  assert.equal(collate([[row([1])]]).inputIds.length, 64);
  const empty = collate([[row([])], []]);
  assert.equal(empty.numTokens, 0);
  assert.equal(empty.inputIds.length, 64);
  assert.throws(() => collate([[row([1, 2, 3])]], 2), /found 3 tokens; expected at most 2/);
  assert.throws(() => collate([[row([1, 2], [1])]]), /found 2 ids with 1 labels/);
});

test("bucket lengths: multiples, never smaller than asked, at most an eighth more, few in number", () => {
  assert.equal(bucketLength(1), 64);
  assert.equal(bucketLength(64), 64);
  assert.equal(bucketLength(65), 128);
  assert.equal(bucketLength(2048), 2048);
  assert.equal(bucketLength(2049), 2304);
  assert.equal(bucketLength(10, 8), 16);
  const seen = new Set<number>();
  let last = 0;
  for (let n = 1; n <= 32768; n++) {
    const bucket = bucketLength(n);
    assert.ok(bucket >= n && bucket % 64 === 0 && bucket >= last);
    if (n >= 512) assert.ok(bucket <= n * 1.125);
    seen.add(bucket);
    last = bucket;
  }
  assert.ok(seen.size < 60, `${seen.size}`);
});
