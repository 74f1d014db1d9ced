import type { Batch } from "../../data/collate.ts";
import type { GRPOLossSettings } from "./grpo-loss.ts";

/** A number a sequence has, or its tokens have: means over both kinds as TRL takes them. */
interface Flags {
  /** Over tokens, or over sequences where the ratio is a sequence's. */
  readonly mean: number;
  /** Smallest and largest mean of a sequence; NaN when no sequence has tokens. */
  readonly min: number;
  readonly max: number;
}

/**
 * TRL's metrics of a microbatch, from arrays f32[T]: `entropy`, and as the loss has them `kl`, `ratio` (after delta's
 * bound), `phiPos` and `phiNeg`.
 */
export function grpoMetrics(
  arrays: Readonly<Record<string, Float32Array>>,
  batch: Batch,
  settings: GRPOLossSettings,
): Record<string, number> {
  const sequence = batch.inputs!.sequence!.data as Int32Array;
  const advantages = batch.inputs!.advantages!.data;
  const bySequence = settings.importanceSamplingLevel === "sequence";
  const members = membersOf(sequence, advantages.length);
  const tokenMean = (x: Float32Array): number => meanOf(members.flat().map((t) => x[t]!));
  const logs: Record<string, number> = { entropy: tokenMean(arrays.entropy!) };
  if (arrays.kl) logs.kl = tokenMean(arrays.kl);
  const flags = (ratio: Float32Array, test: (ratio: number, advantage: number) => boolean): Flags =>
    bySequence ? sequenceFlags(members, advantages, ratio, test) : tokenFlags(members, advantages, ratio, test);
  const { epsilon, lossType } = settings;
  const epsilonHigh = settings.epsilonHigh ?? epsilon;
  if (lossType === "cispo") {
    logs.cispo_clip_ratio = flags(arrays.ratio!, (ratio, a) => ratio > epsilonHigh && a > 0).mean;
  } else if (lossType === "vespo") {
    // A sequence without trained tokens has the ratio 1, where φ is 1.
    const phi = members.map(([first], i) =>
      first === undefined ? 1 : (advantages[i]! >= 0 ? arrays.phiPos! : arrays.phiNeg!)[first]!,
    );
    logs["vespo/phi_seq_mean"] = meanOf(phi);
  } else if (lossType !== "sapo") {
    const isLow = (ratio: number, a: number): boolean => ratio < 1 - epsilon && a < 0;
    const isHigh = (ratio: number, a: number): boolean => ratio > 1 + epsilonHigh && a > 0;
    const [low, high] = [flags(arrays.ratio!, isLow), flags(arrays.ratio!, isHigh)];
    logs["clip_ratio/low_mean"] = low.mean;
    logs["clip_ratio/low_min"] = low.min;
    logs["clip_ratio/high_mean"] = high.mean;
    logs["clip_ratio/high_max"] = high.max;
    logs["clip_ratio/region_mean"] = flags(arrays.ratio!, (ratio, a) => isLow(ratio, a) || isHigh(ratio, a)).mean;
  }
  return logs;
}

/** The tokens of each sequence. */
function membersOf(sequence: Int32Array, count: number): number[][] {
  const members: number[][] = Array.from({ length: count }, () => []);
  sequence.forEach((s, t) => {
    if (s >= 0) members[s]!.push(t);
  });
  return members;
}

type Test = (ratio: number, advantage: number) => boolean;

function tokenFlags(members: number[][], advantages: ArrayLike<number>, ratio: Float32Array, test: Test): Flags {
  const perSequence = members.map((tokens, s) => tokens.map((t) => Number(test(ratio[t]!, advantages[s]!))));
  return { mean: meanOf(perSequence.flat()), ...extremes(perSequence.filter(({ length }) => length > 0).map(meanOf)) };
}

function sequenceFlags(members: number[][], advantages: ArrayLike<number>, ratio: Float32Array, test: Test): Flags {
  const perSequence = members.map(([first], s) =>
    Number(test(first === undefined ? 1 : ratio[first]!, advantages[s]!)),
  );
  return { mean: meanOf(perSequence), ...extremes(perSequence) };
}

function extremes(values: readonly number[]): { min: number; max: number } {
  if (values.length === 0) return { min: Number.NaN, max: Number.NaN };
  return { min: Math.min(...values), max: Math.max(...values) };
}

/** 0 of nothing, as TRL's means over no tokens. */
function meanOf(values: readonly number[]): number {
  return values.length > 0 ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
}
