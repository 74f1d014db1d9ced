/** Learning-rate schedules: the factors λ(t) that Hugging Face's `get_scheduler` multiplies the learning rate with. */

export const SCHEDULER_TYPES = [
  "linear",
  "cosine",
  "cosine_with_restarts",
  "polynomial",
  "constant",
  "constant_with_warmup",
  "inverse_sqrt",
  "cosine_with_min_lr",
  "warmup_stable_decay",
] as const;
export type SchedulerType = (typeof SCHEDULER_TYPES)[number];

export interface ScheduleOptions {
  readonly type: SchedulerType;
  readonly learningRate: number;
  readonly warmupSteps: number;
  /** Optimizer steps of the whole training. */
  readonly totalSteps: number;
  /** cosine: number of waves (0.5: one half wave); cosine_with_restarts: number of restarts (1). */
  readonly numCycles?: number | undefined;
  /** polynomial: exponent (1). */
  readonly power?: number | undefined;
  /** polynomial: final learning rate (1e-7). */
  readonly lrEnd?: number | undefined;
  /** cosine_with_min_lr and warmup_stable_decay: the lowest rate, absolute or as a share of the learning rate. */
  readonly minLr?: number | undefined;
  readonly minLrRate?: number | undefined;
  /** inverse_sqrt: steps over which it falls (the warm-up, or 10,000 without one). */
  readonly timescale?: number | undefined;
  /** warmup_stable_decay: steps of the final decay (the rest after `stableSteps` when left out). */
  readonly decaySteps?: number | undefined;
  readonly stableSteps?: number | undefined;
}

/** λ(step): the factor used by optimizer step `step`, counted from 0. With warm-up the first step's factor is 0. */
export function scheduleFactor(step: number, options: ScheduleOptions): number {
  const { type, warmupSteps: warmup, totalSteps: total, learningRate } = options;
  if (type !== "constant" && step < warmup) return step / Math.max(1, warmup);
  const progress = (step - warmup) / Math.max(1, total - warmup);
  switch (type) {
    case "constant":
    case "constant_with_warmup":
      return 1;
    case "linear":
      return Math.max(0, (total - step) / Math.max(1, total - warmup));
    case "cosine":
      return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (options.numCycles ?? 0.5) * 2 * progress)));
    case "cosine_with_restarts":
      if (progress >= 1) return 0;
      return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (((options.numCycles ?? 1) * progress) % 1))));
    case "cosine_with_min_lr": {
      const floor = minimumRate(options);
      const wave = 0.5 * (1 + Math.cos(Math.PI * (options.numCycles ?? 0.5) * 2 * progress));
      return Math.max(0, wave * (1 - floor) + floor);
    }
    case "polynomial": {
      const end = options.lrEnd ?? 1e-7;
      if (step > total) return end / learningRate;
      const remaining = 1 - (step - warmup) / (total - warmup);
      return ((learningRate - end) * remaining ** (options.power ?? 1) + end) / learningRate;
    }
    case "inverse_sqrt": {
      const timescale = options.timescale ?? (warmup || 10_000);
      return 1 / Math.sqrt((step + timescale - warmup) / timescale);
    }
    case "warmup_stable_decay":
      return stableDecay(step, options);
  }
}

function stableDecay(step: number, options: ScheduleOptions): number {
  const { warmupSteps, totalSteps } = options;
  const decay = options.decaySteps ?? Math.max(0, totalSteps - warmupSteps - (options.stableSteps ?? 0));
  const stable = options.stableSteps ?? totalSteps - warmupSteps - decay;
  const floor = minimumRate(options);
  if (step < warmupSteps + stable) return 1;
  const progress = (step - warmupSteps - stable) / Math.max(1, decay);
  if (progress >= 1) return floor;
  const wave = 0.5 * (1 + Math.cos(Math.PI * (options.numCycles ?? 0.5) * 2 * progress));
  return Math.max(0, wave * (1 - floor) + floor);
}

function minimumRate({ minLr, minLrRate, learningRate }: ScheduleOptions): number {
  return minLrRate ?? (minLr === undefined ? 0 : minLr / learningRate);
}

/** Warm-up steps of a training: a whole number as it is, a share (< 1, or warmup_ratio) rounded up. */
export function warmupSteps(given: { warmupSteps: number; warmupRatio: number }, totalSteps: number): number {
  const share = given.warmupSteps > 0 ? given.warmupSteps : given.warmupRatio;
  return share < 1 ? Math.ceil(share * totalSteps) : share;
}
