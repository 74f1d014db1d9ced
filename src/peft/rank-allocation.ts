import type { AdaLoraSettings } from "./adalora-config.ts";

/** A training's phases (Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", 2023). */
export interface BudgetSchedule extends Pick<AdaLoraSettings, "tinit" | "tfinal" | "deltaT"> {
  readonly totalStep: number;
  /** Triplets of all modules at the start, and in the end. */
  readonly initial: number;
  readonly target: number;
}

/** What happens after the update of a step, counted from 0, in PEFT's RankAllocator. */
export interface StepPlan {
  /** The step's gradients count for importance. */
  readonly watches: boolean;
  /** Triplets that may stay in use; null: no allocation now. */
  readonly budget: number | null;
  /** The ranks are final: what they leave out is zeroed again after every step. */
  readonly keepsRanks: boolean;
}

/**
 * Until `tinit` everything stays; then every `deltaT` steps the budget is initial → target by the cube of what is left of
 * the phase; `tfinal` steps before the end comes the last allocation.
 */
export function planStep(
  step: number,
  { tinit, tfinal, deltaT, totalStep, initial, target }: BudgetSchedule,
): StepPlan {
  const last = totalStep - tfinal;
  if (step > last) return { watches: false, budget: null, keepsRanks: true };
  if (step === last) return { watches: false, budget: target, keepsRanks: false };
  if (step <= tinit || step % deltaT !== 0) return { watches: true, budget: null, keepsRanks: false };
  const left = 1 - (step - tinit) / (last - tinit);
  return { watches: true, budget: Math.trunc((initial - target) * left ** 3 + target), keepsRanks: false };
}

/**
 * Which triplets stay in use, [module][triplet], when `budget` of them may: all whose score is above the
 * (count − budget)-th smallest of all modules'.
 */
export function allocateRanks(scores: readonly Float32Array[], budget: number): boolean[][] {
  const all = Float32Array.from(scores.flatMap((own) => [...own])).sort();
  const pruned = all.length - budget;
  if (pruned <= 0) return scores.map((own) => Array.from(own, () => true));
  const threshold = all[pruned - 1]!;
  return scores.map((own) => Array.from(own, (score) => !(score <= threshold)));
}
