import assert from "node:assert/strict";
import { test } from "node:test";
import { allocateRanks, planStep } from "./rank-allocation.ts";

const schedule = { tinit: 3, tfinal: 5, deltaT: 2, totalStep: 20, initial: 36, target: 18 };

test("the budget stays, falls by a cube every deltaT steps, and ends at the target", () => {
  const plans = Array.from({ length: 20 }, (_, step) => planStep(step, schedule));
  const budgets = plans.map(({ budget }) => budget);
  // int(18·(1 − (t − 3)/12)³ + 18) at even steps beyond 3; the last allocation at 20 − 5.
  const cube = (t: number) => Math.trunc(18 * (1 - (t - 3) / 12) ** 3 + 18);
  const expected = plans.map((_, t) => (t > 3 && t < 15 && t % 2 === 0 ? cube(t) : t === 15 ? 18 : null));
  assert.deepEqual(budgets, expected);
  assert.equal(budgets[4], 31);
  assert.deepEqual(
    plans.map(({ watches }) => watches),
    plans.map((_, t) => t < 15),
  );
  assert.deepEqual(
    plans.map(({ keepsRanks }) => keepsRanks),
    plans.map((_, t) => t > 15),
  );
});

test("without final steps the last allocation would come after the last step", () => {
  assert.equal(planStep(19, { ...schedule, tinit: 0, tfinal: 0, deltaT: 1 }).budget, 18);
  assert.equal(planStep(20, { ...schedule, tinit: 0, tfinal: 0 }).budget, 18);
});

test("the least important triplets of all modules go, ties with them", () => {
  const scores = [Float32Array.of(5, 1, 3), Float32Array.of(2, 4, 2)];
  assert.deepEqual(allocateRanks(scores, 6), [
    [true, true, true],
    [true, true, true],
  ]);
  assert.deepEqual(allocateRanks(scores, 5), [
    [true, false, true],
    [true, true, true],
  ]);
  // The second smallest is 2, and so is the third.
  assert.deepEqual(allocateRanks(scores, 4), [
    [true, false, true],
    [false, true, false],
  ]);
  assert.deepEqual(allocateRanks(scores, 0), [
    [false, false, false],
    [false, false, false],
  ]);
});
