import { z } from "zod";
import { SCHEDULER_TYPES } from "../optim/schedule.ts";
import { parseOptions } from "../util/options.ts";

export const OPTIMIZERS = ["adamw_torch", "adamw_torch_fused", "adamw_8bit", "adamw_bnb_8bit"] as const;
const INTERVALS = ["no", "steps", "epoch"] as const;

const count = z.number().int().nonnegative();
const positive = z.number().int().positive();

/** TrainingArguments' fields, in the spelling of this library; Hugging Face's snake_case is accepted too. */
export const argumentsSchema = z.strictObject({
  /** Where checkpoints and the result go. */
  outputDir: z.string().default("outputs"),
  perDeviceTrainBatchSize: positive.default(8),
  perDeviceEvalBatchSize: positive.default(8),
  /** Microbatches whose gradients make one step. */
  gradientAccumulationSteps: positive.default(1),
  numTrainEpochs: z.number().positive().default(3),
  /** Optimizer steps; overrides numTrainEpochs when positive. */
  maxSteps: z.number().int().default(-1),
  learningRate: z.number().nonnegative().default(5e-5),
  lrSchedulerType: z.enum(SCHEDULER_TYPES).default("linear"),
  lrSchedulerKwargs: z.record(z.string(), z.union([z.number(), z.string()])).default({}),
  /** Steps; below 1 a share of all steps. */
  warmupSteps: z.number().nonnegative().default(0),
  warmupRatio: z.number().min(0).max(1).default(0),
  weightDecay: z.number().nonnegative().default(0),
  adamBeta1: z.number().min(0).lt(1).default(0.9),
  adamBeta2: z.number().min(0).lt(1).default(0.999),
  adamEpsilon: z.number().positive().default(1e-8),
  /** Global gradient norm above which gradients are scaled down; 0: never. */
  maxGradNorm: z.number().nonnegative().default(1),
  optim: z.enum(OPTIMIZERS).default("adamw_torch"),
  labelSmoothingFactor: z.number().min(0).lt(1).default(0),
  loggingSteps: positive.default(500),
  loggingFirstStep: z.boolean().default(false),
  saveStrategy: z.enum(INTERVALS).default("steps"),
  saveSteps: positive.default(500),
  /** Checkpoints kept; the oldest go first. */
  saveTotalLimit: positive.nullable().default(null),
  evalStrategy: z.enum(INTERVALS).default("no"),
  evalSteps: positive.nullable().default(null),
  seed: count.default(42),
  /** Seed of the data order; `seed` when left out. */
  dataSeed: count.nullable().default(null),
  /** Compute types of the GPU; the CPU computes in f32 whatever is asked for. */
  fp16: z.boolean().default(false),
  bf16: z.boolean().default(false),
  disableTqdm: z.boolean().default(false),
  reportTo: z.union([z.enum(["none"]), z.array(z.enum(["none"]))]).default("none"),
});

export type TrainingArgumentsOptions = z.input<typeof argumentsSchema>;
type Parsed = z.output<typeof argumentsSchema>;

/** Settings of a training, validated; unknown names are an error that tells the nearest right one. */
export class TrainingArguments {
  readonly values: Readonly<Parsed>;

  constructor(options: TrainingArgumentsOptions | Record<string, unknown> = {}) {
    this.values = parseOptions("TrainingArguments", argumentsSchema, options);
    if (this.values.fp16 && this.values.bf16) throw new Error("TrainingArguments: fp16 and bf16 cannot both be true");
  }

  get outputDir(): string {
    return this.values.outputDir;
  }
}
