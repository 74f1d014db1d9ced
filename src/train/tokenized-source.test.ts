import assert from "node:assert/strict";
import { test } from "node:test";
import { collate } from "../data/collate.ts";
import { neftuneNoise } from "./neftune.ts";
import { randomRow, randomRows, source } from "./tiny-training.test.support.ts";

const ROWS = randomRows(100);
const length = (index: number): number => ROWS[index]![0]!.inputIds.length;

test("every epoch has every row once, in an order that seed and epoch decide", () => {
  for (const strategy of ["random", "group_by_length"] as const) {
    const [a, b] = [source(ROWS, { strategy, seed: 5 }), source(ROWS, { strategy, seed: 6 })];
    for (const epoch of [0, 1]) {
      const order = [...a.indices(epoch)];
      assert.deepEqual(
        [...order].sort((x, y) => x - y),
        [...ROWS.keys()],
      );
      assert.deepEqual([...a.indices(epoch)], order);
      assert.notDeepEqual([...a.indices(epoch + 1)], order);
      assert.notDeepEqual([...b.indices(epoch)], order);
    }
  }
  assert.deepEqual([...source(ROWS, { strategy: "sequential" }).indices(3)], [...ROWS.keys()]);
});

test("group_by_length: the longest row first, falling lengths within each quarter", () => {
  const order = [...source(ROWS, { strategy: "group_by_length", rowsPerStep: 4 }).indices(0)];
  assert.equal(length(order[0]!), Math.max(...[...ROWS.keys()].map(length)));
  // 100 rows in steps of 4: a mega-batch is a quarter of them, 24 rows.
  for (let at = 0; at < 100; at += 24) {
    // The first of each was swapped with the longest of all, or is that.
    const lengths = order.slice(at + 1, at + 24).map(length);
    assert.deepEqual(
      lengths,
      [...lengths].sort((a, b) => b - a),
    );
  }
});

test("batches hold the rows in order; the last one what is left", () => {
  const batches = [...source(ROWS.slice(0, 5)).batches(0, 2)];
  assert.deepEqual(
    batches.map(({ numTokens }) => numTokens),
    [length(0) + length(1), length(2) + length(3), length(4)],
  );
});

test("NEFTune's noise is uniform, of the amplitude of each sequence's length, and none for padding", () => {
  const [width, alpha] = [64, 5];
  const batch = collate([[randomRow(4, 1), randomRow(25, 2)]]);
  const noise = neftuneNoise(batch, width, alpha, Uint32Array.of(7, 3));
  assert.equal(noise.length, batch.inputIds.length * width);
  const part = (start: number, end: number): Float32Array => noise.subarray(start * width, end * width);
  for (const [start, end] of [
    [0, 4],
    [4, 29],
  ] as const) {
    const amplitude = alpha / Math.sqrt((end - start) * width);
    const values = part(start, end);
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
    const square = values.reduce((sum, x) => sum + x * x, 0) / values.length;
    assert.ok(values.every((x) => Math.abs(x) < amplitude));
    assert.ok(Math.abs(mean) < (5 * amplitude) / Math.sqrt(3 * values.length));
    assert.ok(Math.abs(square / (amplitude ** 2 / 3) - 1) < 0.2, `variance ${square}`);
  }
  assert.ok(part(29, batch.inputIds.length).every((x) => x === 0));
  assert.deepEqual(neftuneNoise(batch, width, alpha, Uint32Array.of(7, 3)), noise);
  assert.notDeepEqual(neftuneNoise(batch, width, alpha, Uint32Array.of(7, 4)), noise);
  assert.notDeepEqual(neftuneNoise(batch, width, alpha, Uint32Array.of(2 ** 32 - 1, 3)), noise);
});
