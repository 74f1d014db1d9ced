import { z } from "zod";
import { OptionError } from "../../util/options.ts";
import type { TrainingArguments, TrainingArgumentsOptions } from "../arguments.ts";
import { configClass } from "../config-class.ts";
import { splitConfig } from "../config-options.ts";
import { GRPO_FOREIGN } from "./grpo-foreign.ts";
import { chatTemplateVariables } from "./prompts.ts";

export const GRPO_LOSS_TYPES = ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"] as const;
export type GRPOLossType = (typeof GRPO_LOSS_TYPES)[number];

const positiveInt = z.number().int().positive();

/** What GRPO adds to TrainingArguments (TRL 1.16's GRPOConfig). Completions are counted where TRL counts them: a microbatch
 * has `perDeviceTrainBatchSize` completions. */
export const grpoSchema = z.strictObject({
  numGenerations: positiveInt.default(8).describe("completions of each prompt, whose rewards are compared"),
  numGenerationsEval: positiveInt.nullable().default(null).describe("the same in evaluation; as in training"),
  generationBatchSize: positiveInt.nullable().default(null).describe("completions made at a time; or:"),
  stepsPerGeneration: positiveInt
    .nullable()
    .default(null)
    .describe("microbatches that a generation fills; gradientAccumulationSteps when left out"),
  numIterations: positiveInt.default(1).describe("times each generation is trained on (μ)"),
  shuffleDataset: z.boolean().default(true).describe("a new random order of the prompts each epoch"),
  maxPromptLength: positiveInt.nullable().default(null).describe("longer prompts keep their last tokens only"),
  maxCompletionLength: positiveInt.default(512).describe("most tokens of a completion"),
  temperature: z.number().positive().default(1).describe("of sampling, and of the log-probabilities trained on"),
  topP: z.number().gt(0).max(1).default(1).describe("sample from the most likely that reach this probability"),
  topK: z.number().int().nonnegative().default(0).describe("sample from the k most likely; 0: from all"),
  minP: z
    .number()
    .min(0)
    .max(1)
    .nullable()
    .default(null)
    .describe("sample from those this share as likely as the first"),
  repetitionPenalty: z.number().positive().default(1).describe("of tokens already in prompt or completion; 1: none"),
  chatTemplateKwargs: chatTemplateVariables,
  beta: z.number().nonnegative().default(0).describe("weight of the KL divergence from the reference; 0: none is kept"),
  refAdapterName: z
    .string()
    .nullable()
    .default(null)
    .describe("adapter that is the reference; none: the model as it is before training"),
  epsilon: z.number().nonnegative().default(0.2).describe("how far the ratio may fall below 1"),
  epsilonHigh: z.number().nonnegative().nullable().default(null).describe("how far it may rise; epsilon when left out"),
  delta: z.number().positive().nullable().default(null).describe("upper bound of the ratio on the other side too"),
  lossType: z.enum(GRPO_LOSS_TYPES).default("dapo").describe("the loss, and how tokens are averaged"),
  importanceSamplingLevel: z
    .enum(["token", "sequence"])
    .default("token")
    .describe("ratios a token, or (GSPO) a sequence"),
  sapoTemperaturePos: z.number().positive().default(1).describe("of sapo's gate where the advantage is positive"),
  sapoTemperatureNeg: z.number().positive().default(1.05).describe("and where it is not"),
  vespoKPos: z.number().nonnegative().default(2).describe("vespo's exponent where the advantage is not negative"),
  vespoLambdaPos: z.number().nonnegative().default(3).describe("vespo's decay there"),
  vespoKNeg: z.number().nonnegative().default(3).describe("vespo's exponent where the advantage is negative"),
  vespoLambdaNeg: z.number().nonnegative().default(2).describe("vespo's decay there"),
  useBiasCorrectionKl: z.boolean().default(true).describe("weigh the KL divergence with the ratio"),
  offPolicyMaskThreshold: z
    .number()
    .nonnegative()
    .nullable()
    .default(null)
    .describe(
      "leave out sequences of negative advantage further than this (KL a token) from the policy that made them",
    ),
  rewardWeights: z.array(z.number()).nullable().default(null).describe("one a reward function; all 1 when left out"),
  multiObjectiveAggregation: z
    .enum(["sum_then_normalize", "normalize_then_sum"])
    .default("sum_then_normalize")
    .describe("whether several rewards are added before (GRPO) or after (GDPO) they are normalised"),
  scaleRewards: z
    .union([z.boolean(), z.enum(["group", "batch", "none"])])
    .default("group")
    .transform((value) => (typeof value === "boolean" ? (value ? "group" : "none") : value))
    .describe("what advantages are divided by: the standard deviation of a prompt's rewards, of all, or nothing"),
  maskTruncatedCompletions: z.boolean().default(false).describe("do not train on completions that were cut off"),
  topEntropyQuantile: z
    .number()
    .min(0)
    .max(1)
    .default(1)
    .describe("share of the tokens, by entropy, that is trained on"),
  entropyCoef: z.number().default(0).describe("weight of the entropy bonus: the mean entropy a token is rewarded"),
  useAdaptiveEntropy: z.boolean().default(false).describe("change entropyCoef after each step, towards entropyTarget"),
  entropyCoefMin: z.number().default(0).describe("least entropyCoef then"),
  entropyCoefMax: z.number().default(1).describe("and most"),
  entropyCoefDelta: z.number().default(0.005).describe("and by how much it changes"),
  entropyTarget: z.number().default(0.2).describe("entropy (nats a token) up to which the bonus is there, and grows"),
  disableDropout: z.boolean().default(false).describe("no dropout of the adapter in training"),
  logCompletions: z.boolean().default(false).describe("print completions with every log, and write them as JSON Lines"),
  numCompletionsToPrint: positiveInt.nullable().default(null).describe("how many are printed; all when left out"),
});
export type GRPOOptions = z.input<typeof grpoSchema>;

/** The settings with what follows from them: `stepsPerGeneration` and `generationBatchSize` are numbers. */
export interface GRPOValues extends z.output<typeof grpoSchema> {
  readonly stepsPerGeneration: number;
  readonly generationBatchSize: number;
}

const DEFAULTS: TrainingArgumentsOptions = { learningRate: 1e-6, loggingSteps: 10 };

const SHAPE = { owner: "GRPOConfig", schema: grpoSchema, foreign: GRPO_FOREIGN, defaults: DEFAULTS };

/**
 * TRL's GRPOConfig: TrainingArguments, with learningRate 1e-6 and loggingSteps 10 by default, and the above in one. Throws
 * OptionError as TrainingArguments does, and for batch sizes that do not hold whole groups.
 */
export class GRPOConfig extends configClass<GRPOOptions, z.output<typeof grpoSchema>, GRPOValues>(
  (options) => splitConfig(SHAPE, options),
  complete,
) {}

function complete(given: z.output<typeof grpoSchema>, args: TrainingArguments): GRPOValues {
  const fail = (message: string): never => {
    throw new OptionError(`GRPOConfig: ${message}`);
  };
  const batch = args.perDeviceTrainBatchSize;
  if (given.generationBatchSize !== null && given.stepsPerGeneration !== null) {
    fail("generationBatchSize and stepsPerGeneration say the same thing: give one of them");
  }
  const stepsPerGeneration =
    given.generationBatchSize === null
      ? (given.stepsPerGeneration ?? args.gradientAccumulationSteps)
      : given.generationBatchSize / batch;
  if (!Number.isInteger(stepsPerGeneration)) {
    fail(`generationBatchSize (${given.generationBatchSize}) must be a multiple of perDeviceTrainBatchSize (${batch})`);
  }
  const generationBatchSize = stepsPerGeneration * batch;
  const { numGenerations, lossType, epsilonHigh } = given;
  if (numGenerations < 2) fail(`numGenerations must be at least 2: rewards are compared, found ${numGenerations}`);
  if (generationBatchSize % numGenerations !== 0) {
    fail(
      `a generation of ${generationBatchSize} completions (perDeviceTrainBatchSize ${batch} × stepsPerGeneration ` +
        `${stepsPerGeneration}) does not hold whole groups of numGenerations ${numGenerations}: make it a multiple`,
    );
  }
  const groupEval = given.numGenerationsEval ?? numGenerations;
  if (args.evalStrategy !== "no" && args.perDeviceEvalBatchSize % groupEval !== 0) {
    fail(`perDeviceEvalBatchSize (${args.perDeviceEvalBatchSize}) must be a multiple of its ${groupEval} generations`);
  }
  if (lossType === "luspo" && given.importanceSamplingLevel !== "sequence") {
    process.emitWarning(
      'GRPOConfig: lossType "luspo" is meant for importanceSamplingLevel "sequence"',
      "UnslothWarning",
    );
  }
  return { ...given, stepsPerGeneration, generationBatchSize, epsilonHigh: epsilonHigh ?? given.epsilon };
}
