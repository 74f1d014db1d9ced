import assert from "node:assert/strict";
import { test } from "node:test";
import { type AdvantageSettings, groupAdvantages } from "./advantages.ts";
import { quantile } from "./statistics.ts";

const none = Number.NaN;
const settings = (
  scaleRewards: AdvantageSettings["scaleRewards"],
  multiObjectiveAggregation: AdvantageSettings["multiObjectiveAggregation"] = "sum_then_normalize",
): AdvantageSettings => ({ scaleRewards, multiObjectiveAggregation });

const near = (actual: Iterable<number>, expected: readonly number[]): void => {
  [...actual].forEach((x, i) => assert.ok(Math.abs(x - expected[i]!) < 1e-9, `${i}: ${x}, expected ${expected[i]}`));
};

test("advantages by group, by batch, and not scaled", () => {
  const rewards = Float64Array.of(1, 3, 5, 5);
  const group = groupAdvantages([rewards], [1], 2, settings("group"));
  near(group.advantages, [-1 / (Math.SQRT2 + 1e-4), 1 / (Math.SQRT2 + 1e-4), 0, 0]);
  assert.equal(group.zeroStd, 0.5);
  // Of 1, 3, 5, 5: mean 3.5, squares 6.25 + 0.25 + 2.25 + 2.25 = 11, over 3.
  const deviation = Math.sqrt(11 / 3) + 1e-4;
  near(groupAdvantages([rewards], [1], 2, settings("batch")).advantages, [-1 / deviation, 1 / deviation, 0, 0]);
  near(groupAdvantages([rewards], [1], 2, settings("none")).advantages, [-1, 1, 0, 0]);
});

test("rewards that are missing count neither in the sum nor in the group", () => {
  const [a, b] = [Float64Array.of(1, none, 2, none), Float64Array.of(none, none, 10, 20)];
  const { rewards, advantages } = groupAdvantages([a, b], [1, 0.1], 4, settings("none"));
  near([rewards[0]!, rewards[2]!, rewards[3]!], [1, 3, 2]);
  assert.ok(Number.isNaN(rewards[1]!));
  near(advantages, [-1, 0, 1, 0]);
});

test("normalised for each function before they are added", () => {
  const [a, b] = [Float64Array.of(0, 2), Float64Array.of(5, 1)];
  const { advantages, rewards } = groupAdvantages([a, b], [1, 2], 2, settings("group", "normalize_then_sum"));
  near(rewards, [10, 4]);
  const one = 1 / (Math.SQRT2 + 1e-4);
  const other = 2 / (Math.sqrt(8) + 1e-4);
  const sum = -one + 2 * other;
  near(advantages, [sum / (sum * Math.SQRT2 + 1e-4), -sum / (sum * Math.SQRT2 + 1e-4)]);
});

test("quantiles lie between the neighbours", () => {
  assert.equal(quantile([4, 1, 3, 2], 0.5), 2.5);
  assert.equal(quantile([4, 1, 3, 2], 0), 1);
  assert.equal(quantile([7], 0.3), 7);
  assert.ok(Number.isNaN(quantile([], 0.5)));
});
