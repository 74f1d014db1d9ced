import type { GRPOValues } from "./grpo-config.ts";
import { nanMean, nanStd } from "./statistics.ts";

/** How rewards become advantages. */
export type AdvantageSettings = Pick<GRPOValues, "scaleRewards" | "multiObjectiveAggregation">;

export interface Advantages {
  /** Weighted sums of the functions' rewards, one a completion; NaN where every function gave null. */
  readonly rewards: Float64Array;
  /** 0 where there is no reward. */
  readonly advantages: Float64Array;
  /** Share of the completions whose group's (or batch's) rewards are all the same: they teach nothing. */
  readonly zeroStd: number;
}

/** Keeps the division finite where all rewards are the same (TRL). */
const EPSILON = 1e-4;

/**
 * Group-relative advantages A = (r − mean of the prompt's rewards) / (their deviation + 1e-4) (Shao et al., "DeepSeekMath",
 * 2024); divided by the whole batch's deviation, or not at all (Dr. GRPO), as `scaleRewards` says; or normalised for each
 * function by itself and added then (GDPO).
 * @param perFunction rewards[function][completion], NaN for none; completions of a prompt follow one another
 */
export function groupAdvantages(
  perFunction: readonly Float64Array[],
  weights: readonly number[],
  groupSize: number,
  { scaleRewards, multiObjectiveAggregation }: AdvantageSettings,
): Advantages {
  const count = perFunction[0]!.length;
  const rewards = weightedSum(perFunction, weights, count);
  const groupOf = (values: Float64Array, i: number): Float64Array => {
    const start = Math.floor(i / groupSize) * groupSize;
    return values.subarray(start, start + groupSize);
  };
  if (multiObjectiveAggregation === "normalize_then_sum") {
    const normalised = perFunction.map((values) =>
      values.map((value, i) => {
        const group = groupOf(values, i);
        const deviation = groupSize > 1 ? nanStd(group) : 0;
        return (value - nanMean(group)) / (deviation + EPSILON);
      }),
    );
    const sums = weightedSum(normalised, weights, count);
    const [mean, deviation] = [nanMean(sums), count > 1 ? nanStd(sums) : 0];
    const advantages = sums.map((sum) => orZero((sum - mean) / (deviation + EPSILON)));
    return { rewards, advantages, zeroStd: isZero(deviation) ? 1 : 0 };
  }
  const ofBatch = count > 1 ? nanStd(rewards) : 0;
  const deviations = rewards.map((_, i) => {
    if (scaleRewards === "batch") return ofBatch;
    return groupSize > 1 ? nanStd(groupOf(rewards, i)) : 0;
  });
  const advantages = rewards.map((reward, i) => {
    const centred = reward - nanMean(groupOf(rewards, i));
    return orZero(scaleRewards === "none" ? centred : centred / (deviations[i]! + EPSILON));
  });
  return { rewards, advantages, zeroStd: deviations.filter(isZero).length / count };
}

/** Σ weight·reward over the functions that gave one; NaN where none did. */
function weightedSum(perFunction: readonly Float64Array[], weights: readonly number[], count: number): Float64Array {
  return Float64Array.from({ length: count }, (_, i) => {
    const given = perFunction.map((values, k) => values[i]! * weights[k]!).filter((value) => !Number.isNaN(value));
    return given.length === 0 ? Number.NaN : given.reduce((sum, value) => sum + value, 0);
  });
}

// torch.isclose's absolute tolerance.
const isZero = (deviation: number): boolean => Math.abs(deviation) <= 1e-8;
const orZero = (value: number): number => (Number.isNaN(value) ? 0 : value);
