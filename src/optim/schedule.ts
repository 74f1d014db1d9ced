/** Learning-rate schedules: the factors that Hugging Face's `get_scheduler` multiplies the learning rate with. */
import { nearest } from "../util/nearest.ts";
import { camelCase, OptionError } from "../util/options.ts";

/** Further settings of each schedule, `lr_scheduler_kwargs` in Hugging Face's terms. */
const SETTINGS = {
  linear: [],
  /** numCycles: waves (0.5: one half wave). */
  cosine: ["numCycles"],
  /** numCycles: restarts (1). */
  cosine_with_restarts: ["numCycles"],
  /** power: exponent (1); lrEnd: final rate (1e-7). */
  polynomial: ["power", "lrEnd"],
  constant: [],
  constant_with_warmup: [],
  /** timescale: steps over which it falls (the warm-up, or 10,000 without one). */
  inverse_sqrt: ["timescale"],
  /** minLr, or minLrRate as a share of the learning rate. */
  cosine_with_min_lr: ["numCycles", "minLr", "minLrRate"],
  /** warmupLrRate: share of the rate that the warm-up starts from. */
  cosine_warmup_with_min_lr: ["numCycles", "minLr", "minLrRate", "warmupLrRate"],
  /** Shapes are linear, cosine or 1-sqrt. */
  warmup_stable_decay: ["numDecaySteps", "numStableSteps", "minLrRatio", "numCycles", "warmupType", "decayType"],
  /** By the evaluations, not by the steps: see plateau.ts. */
  reduce_lr_on_plateau: ["mode", "factor", "patience", "threshold", "thresholdMode", "cooldown", "minLr", "eps"],
} as const;

export type SchedulerType = keyof typeof SETTINGS;
export const SCHEDULER_TYPES = Object.keys(SETTINGS) as [SchedulerType, ...SchedulerType[]];

export interface ScheduleOptions {
  readonly type: SchedulerType;
  readonly learningRate: number;
  readonly warmupSteps: number;
  /** Optimizer steps of the whole training. */
  readonly totalSteps: number;
  /** Settings of this schedule, checked by `scheduleSettings`. */
  readonly settings?: Readonly<Record<string, number | string>>;
}

/** Check settings given in camelCase or snake_case. Throws OptionError naming the nearest right one. */
export function scheduleSettings(
  type: SchedulerType,
  given: Readonly<Record<string, number | string>>,
): Record<string, number | string> {
  const known: readonly string[] = SETTINGS[type];
  const settings: Record<string, number | string> = {};
  for (const [key, value] of Object.entries(given)) {
    const name = camelCase(key);
    if (!known.includes(name)) {
      const close = nearest(name, known);
      const hint = close ? `did you mean "${close}"?` : `it takes ${known.join(", ") || "none"}`;
      throw new OptionError(`lrSchedulerKwargs: the ${type} schedule has no setting "${key}"; ${hint}`);
    }
    const words = WORDS[name];
    const valid = words ? words.includes(String(value)) : typeof value === "number" && Number.isFinite(value);
    if (!valid) {
      const expected = words?.join(", ") ?? "a number";
      throw new OptionError(`lrSchedulerKwargs: ${name} must be ${expected}; found ${JSON.stringify(value)}`);
    }
    settings[name] = value;
  }
  return settings;
}

/** Shapes of a rise from 0 to 1. */
const RISE: Readonly<Record<string, (progress: number) => number>> = {
  linear: (p) => p,
  cosine: (p) => 0.5 * (1 - Math.cos(Math.PI * p)),
  "1-sqrt": (p) => 1 - Math.sqrt(1 - p),
};

/** Settings that are words. */
const WORDS: Readonly<Record<string, readonly string[]>> = {
  warmupType: Object.keys(RISE),
  decayType: Object.keys(RISE),
  mode: ["min", "max"],
  thresholdMode: ["rel", "abs"],
};

/** `waves` cosine waves from 1, down to `floor`. */
const wave = (progress: number, waves: number, floor = 0): number =>
  Math.max(0, 0.5 * (1 + Math.cos(2 * Math.PI * waves * progress)) * (1 - floor) + floor);

/** The factor of optimizer step `step`, counted from 0. With warm-up the first step's factor is usually 0. */
export function scheduleFactor(step: number, options: ScheduleOptions): number {
  const { type, warmupSteps: warmup, totalSteps: total, learningRate, settings = {} } = options;
  const number = (name: string, otherwise: number): number => (settings[name] as number | undefined) ?? otherwise;
  const floor = number("minLrRate", number("minLr", 0) / learningRate);
  if (type === "warmup_stable_decay") return stableDecay(step, options);
  if (type === "cosine_warmup_with_min_lr") {
    const from = settings.warmupLrRate as number | undefined;
    if (step < warmup) {
      return from === undefined
        ? (step + 1) / Math.max(1, warmup)
        : from + ((1 - from) * step) / Math.max(1, warmup - 1);
    }
    return wave((step - warmup + 1) / Math.max(1, total - warmup), number("numCycles", 0.5), floor);
  }
  if (type !== "constant" && type !== "reduce_lr_on_plateau" && step < warmup) return step / Math.max(1, warmup);
  const progress = (step - warmup) / Math.max(1, total - warmup);
  switch (type) {
    case "constant":
    case "constant_with_warmup":
    case "reduce_lr_on_plateau":
      return 1;
    case "linear":
      return Math.max(0, (total - step) / Math.max(1, total - warmup));
    case "cosine":
    case "cosine_with_min_lr":
      return wave(progress, number("numCycles", 0.5), floor);
    case "cosine_with_restarts":
      return progress >= 1 ? 0 : wave((number("numCycles", 1) * progress) % 1, 0.5);
    case "polynomial": {
      const end = number("lrEnd", 1e-7);
      if (step > total) return end / learningRate;
      return ((learningRate - end) * (1 - progress) ** number("power", 1) + end) / learningRate;
    }
    case "inverse_sqrt": {
      const timescale = number("timescale", warmup || 10_000);
      return 1 / Math.sqrt((step + timescale - warmup) / timescale);
    }
  }
}

function stableDecay(step: number, { warmupSteps, totalSteps, settings = {} }: ScheduleOptions): number {
  const decay =
    (settings.numDecaySteps as number | undefined) ??
    Math.max(0, totalSteps - warmupSteps - Number(settings.numStableSteps ?? 0));
  const stable = (settings.numStableSteps as number | undefined) ?? totalSteps - warmupSteps - decay;
  const floor = Number(settings.minLrRatio ?? 0);
  const scaled = (factor: number): number => Math.max(0, factor * (1 - floor) + floor);
  if (step < warmupSteps) return scaled(RISE[settings.warmupType ?? "linear"]!(step / Math.max(1, warmupSteps)));
  if (step < warmupSteps + stable) return 1;
  const progress = (step - warmupSteps - stable) / Math.max(1, decay);
  if (progress >= 1) return floor;
  const shape = settings.decayType ?? "cosine";
  if (shape === "cosine") return wave(progress, Number(settings.numCycles ?? 0.5), floor);
  return scaled(shape === "linear" ? 1 - progress : 1 - Math.sqrt(progress));
}

/** Warm-up steps of a training: a whole number as it is, a share (< 1, or warmup_ratio) rounded up. */
export function warmupSteps(given: { warmupSteps: number; warmupRatio: number }, totalSteps: number): number {
  const share = given.warmupSteps > 0 ? given.warmupSteps : given.warmupRatio;
  return share < 1 ? Math.ceil(share * totalSteps) : share;
}
