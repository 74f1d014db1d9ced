import { z } from "zod";
import { SCHEDULER_TYPES } from "../optim/schedule.ts";

/** Optimizers by Hugging Face's names. All are AdamW; paged states and fused kernels are torch's ways to the same numbers. */
const ADAMW_8BIT = ["adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"] as const;
const ADAMW_32BIT = [
  "adamw_torch",
  "adamw_torch_fused",
  "adamw_hf",
  "adamw_apex_fused",
  "paged_adamw",
  "paged_adamw_32bit",
] as const;
export const OPTIMIZERS = [...ADAMW_32BIT, ...ADAMW_8BIT] as const;

/** Whether an optimizer keeps its states in 8 bits. */
export const isEightBit = (optim: (typeof OPTIMIZERS)[number]): boolean =>
  (ADAMW_8BIT as readonly string[]).includes(optim);

const INTERVALS = ["no", "steps", "epoch"] as const;
const REPORTERS = ["none", "all", "tensorboard", "wandb"] as const;

const count = z.number().int().nonnegative();
const positive = z.number().int().positive();
const share = z.number().min(0).max(1);
/** A number of steps, or below 1 a share of all steps. */
const interval = z
  .number()
  .positive()
  .refine((n) => n < 1 || Number.isInteger(n), { error: "expected an integer, or a share of all steps below 1" });

/** TrainingArguments' fields, in the spelling of this library; Hugging Face's snake_case is accepted too. */
export const argumentsSchema = z.strictObject({
  outputDir: z.string().min(1).default("trainer_output").describe("where checkpoints and the result go"),
  runName: z.string().nullable().default(null).describe("name of the run for wandb; outputDir when left out"),

  perDeviceTrainBatchSize: positive.default(8).describe("rows of a microbatch"),
  perDeviceEvalBatchSize: positive.default(8).describe("rows of an evaluation batch"),
  gradientAccumulationSteps: positive.default(1).describe("microbatches whose gradients make one step"),
  numTrainEpochs: z.number().positive().default(3).describe("epochs; a fraction ends within one"),
  maxSteps: z.number().int().default(-1).describe("optimizer steps; overrides numTrainEpochs when positive"),
  dataloaderDropLast: z.boolean().default(false).describe("leave out an epoch's last microbatch when it is not full"),
  trainSamplingStrategy: z
    .enum(["random", "sequential", "group_by_length"])
    .default("random")
    .describe("order of the rows in an epoch"),
  groupByLength: z.boolean().default(false).describe('the same as trainSamplingStrategy "group_by_length"'),
  seed: count.default(42).describe("of dropout, noise and the data order"),
  dataSeed: count.nullable().default(null).describe("of the data order; seed when left out"),

  optim: z.enum(OPTIMIZERS).default("adamw_torch").describe("AdamW, with states in 32 or 8 bits"),
  learningRate: z.number().nonnegative().default(5e-5).describe("the highest learning rate of the schedule"),
  embeddingLearningRate: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe("learning rate of embeddings and other modules trained in full beside an adapter (Unsloth)"),
  loraplusLrRatio: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe("LoRA+: B matrices learn so many times as fast as A; 16 is usual"),
  loraplusLrEmbedding: z.number().positive().default(1e-6).describe("LoRA+: learning rate of updates of embeddings"),
  lrSchedulerType: z.enum(SCHEDULER_TYPES).default("linear").describe("how the learning rate changes"),
  lrSchedulerKwargs: z
    .record(z.string(), z.union([z.number(), z.string()]))
    .nullable()
    .default(null)
    .describe("settings of the schedule"),
  warmupSteps: z.number().nonnegative().default(0).describe("steps of rising learning rate; below 1 a share of all"),
  warmupRatio: share.default(0).describe("share of the steps with rising learning rate"),
  weightDecay: z.number().nonnegative().default(0).describe("AdamW's decay; biases and norms have none"),
  adamBeta1: z.number().min(0).lt(1).default(0.9).describe("decay of AdamW's first moment"),
  adamBeta2: z.number().min(0).lt(1).default(0.999).describe("decay of AdamW's second moment"),
  adamEpsilon: z.number().positive().default(1e-8).describe("AdamW's epsilon"),
  maxGradNorm: z.number().nonnegative().default(1).describe("gradient norm to clip to; 0: no clipping"),
  labelSmoothingFactor: z.number().min(0).lt(1).default(0).describe("label smoothing of the loss"),
  neftuneNoiseAlpha: z.number().positive().nullable().default(null).describe("strength of NEFTune's embedding noise"),
  gradientCheckpointing: z
    .union([z.boolean(), z.literal("unsloth")])
    .nullable()
    .default(null)
    .describe(
      'recompute activations: true, "unsloth" (only what has to be); false or left out: as the model was set up',
    ),
  fp16: z.boolean().default(false).describe("compute in float16 on a GPU; a CPU computes in float32"),
  bf16: z.boolean().default(false).describe("compute in bfloat16 on a GPU; a CPU computes in float32"),

  loggingStrategy: z.enum(INTERVALS).default("steps").describe("when to log"),
  loggingSteps: interval.default(500).describe("steps between logs; below 1 a share of all"),
  loggingFirstStep: z.boolean().default(false).describe("log the first step too"),
  loggingNanInfFilter: z.boolean().default(true).describe("leave losses that are not finite out of the logged mean"),
  loggingDir: z.string().nullable().default(null).describe("TensorBoard's folder; outputDir/runs/<time>_<host>"),
  logLevel: z
    .enum(["passive", "debug", "info", "warning", "error", "critical"])
    .default("passive")
    .describe("error and critical: print neither progress nor logs"),
  disableTqdm: z.boolean().default(false).describe("no progress bar; logs are still printed"),
  reportTo: z
    .union([z.enum(REPORTERS), z.array(z.enum(REPORTERS))])
    .default("none")
    .describe("tensorboard, wandb, all or none"),
  includeNumInputTokensSeen: z
    .union([z.boolean(), z.enum(["no", "all", "non_padding"])])
    .default("no")
    .describe("log the tokens seen and tokens per second (there is no padding: all are non_padding)"),

  evalStrategy: z.enum(INTERVALS).default("no").describe("when to evaluate"),
  evalSteps: interval.nullable().default(null).describe("steps between evaluations; loggingSteps when left out"),
  evalDelay: z.number().nonnegative().default(0).describe("steps, or epochs, before the first evaluation"),
  evalOnStart: z.boolean().default(false).describe("evaluate before the first step"),
  predictionLossOnly: z.boolean().default(false).describe("give computeMetrics nothing: only the loss is wanted"),
  batchEvalMetrics: z.boolean().default(false).describe("call computeMetrics a batch, not once with everything"),
  includeForMetrics: z
    .array(z.enum(["inputs", "loss"]))
    .default([])
    .describe("what else computeMetrics gets"),

  saveStrategy: z
    .enum([...INTERVALS, "best"])
    .default("steps")
    .describe("when to save checkpoints"),
  saveSteps: interval.default(500).describe("steps between checkpoints; below 1 a share of all"),
  saveTotalLimit: positive.nullable().default(null).describe("checkpoints kept; the oldest go first, the best never"),
  saveOnlyModel: z.boolean().default(false).describe("checkpoints without what resuming needs"),
  loadBestModelAtEnd: z.boolean().default(false).describe("end with the weights of the best evaluation"),
  metricForBestModel: z.string().min(1).nullable().default(null).describe("metric that says which is best"),
  greaterIsBetter: z.boolean().nullable().default(null).describe("of that metric; false for losses when left out"),
  resumeFromCheckpoint: z
    .union([z.boolean(), z.string().min(1)])
    .nullable()
    .default(null)
    .describe("go on from a checkpoint folder, or true: the latest of outputDir"),
  restoreCallbackStatesFromCheckpoint: z
    .boolean()
    .default(true)
    .describe("resume callbacks (early stopping's patience) where they were; Hugging Face's default is false"),
});

export type TrainingArgumentsOptions = z.input<typeof argumentsSchema>;
export type ParsedArguments = z.output<typeof argumentsSchema>;
