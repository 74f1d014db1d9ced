import assert from "node:assert/strict";
import { test } from "node:test";
import { Sampler } from "./sampler.ts";

test("every row once an epoch, in an order of its own", () => {
  const sampler = new Sampler(50, { seed: 1 });
  const epochs = Array.from({ length: 3 }, () => Array.from({ length: 50 }, () => sampler.next()));
  for (const epoch of epochs)
    assert.deepEqual(
      epoch.toSorted((a, b) => a - b),
      [...Array(50).keys()],
    );
  assert.notDeepEqual(epochs[0], epochs[1]);
  assert.notDeepEqual(epochs[1], epochs[2]);
  assert.equal(sampler.epoch, 3);
  const other = new Sampler(50, { seed: 2 });
  assert.notDeepEqual(
    Array.from({ length: 50 }, () => other.next()),
    epochs[0],
  );
});

test("batches end with the epoch", () => {
  const sampler = new Sampler(5, { seed: 0, shuffle: false });
  assert.deepEqual(
    Array.from({ length: 4 }, () => sampler.nextBatch(2)),
    [[0, 1], [2, 3], [4], [0, 1]],
  );
  assert.equal(sampler.epoch, 1.4);
});

test("a restored sampler goes on exactly where it was, from any point", () => {
  for (let stop = 0; stop < 25; stop++) {
    const sampler = new Sampler(10, { seed: 9 });
    for (let i = 0; i < stop; i++) sampler.next();
    const restored = Sampler.fromState(JSON.parse(JSON.stringify(sampler.state())), 10);
    for (let i = 0; i < 30; i++) assert.equal(restored.next(), sampler.next());
    assert.deepEqual(restored.state(), sampler.state());
  }
});

test("states that do not fit are refused", () => {
  const state = new Sampler(10, { seed: 9 }).state();
  assert.throws(() => Sampler.fromState(state, 11), /found 10 rows; expected 11: the data set has changed/);
  assert.throws(() => Sampler.fromState({ ...state, position: 10 }, 10), /position 10/);
  assert.throws(() => Sampler.fromState({ ...state, epoch: -1 }, 10), /epoch -1/);
  assert.throws(() => Sampler.fromState({ ...state, seed: 0.5 }, 10), /seed/);
  assert.throws(() => new Sampler(0, { seed: 1 }), /found 0 rows/);
});
