import { z } from "zod";
import { OptionError } from "../../util/options.ts";
import type { TrainingArguments, TrainingArgumentsOptions } from "../arguments.ts";
import { configClass } from "../config-class.ts";
import { splitConfig } from "../config-options.ts";
import type { ForeignOptions } from "../foreign-options.ts";
import { RL_FOREIGN } from "./grpo-foreign.ts";
import { chatTemplateVariables } from "./prompts.ts";

const positiveInt = z.number().int().positive();

/** What PPO adds to TrainingArguments (TRL's PPOConfig). A rollout has perDeviceTrainBatchSize·gradientAccumulationSteps prompts. */
export const ppoSchema = z.strictObject({
  totalEpisodes: positiveInt.nullable().default(null).describe("completions of the whole training; or numTrainEpochs"),
  numPpoEpochs: positiveInt.default(4).describe("times a rollout is trained on"),
  numMiniBatches: positiveInt.default(1).describe("updates of one pass over a rollout"),
  localRolloutForwardBatchSize: positiveInt.default(64).describe("sequences that are scored in one forward pass"),
  numSampleGenerations: z.number().int().nonnegative().default(10).describe("times that samples are shown; 0: never"),
  responseLength: positiveInt.default(53).describe("most tokens of a completion"),
  stopToken: z.enum(["eos"]).nullable().default(null).describe('"eos": completions end with it; or stopTokenId'),
  stopTokenId: z.number().int().nonnegative().nullable().default(null).describe("id that ends completions"),
  temperature: z.number().positive().default(0.7).describe("of sampling, and of the log-probabilities trained on"),
  missingEosPenalty: z.number().positive().nullable().default(null).describe("taken off the score without EOS"),
  modelAdapterName: z.string().nullable().default(null).describe("adapter that is the policy; the one in use"),
  refAdapterName: z.string().nullable().default(null).describe("adapter that is the reference; none: the base model"),
  valueAdapterName: z.string().default("value").describe("adapter, with a score head, that is the value model"),
  whitenRewards: z.boolean().default(false).describe("scale a rollout's rewards to variance 1"),
  klCoef: z.number().nonnegative().default(0.05).describe("weight of the KL divergence in the reward"),
  klEstimator: z.enum(["k1", "k3"]).default("k1").describe("−logr, or e^logr − 1 − logr, with logr = log ref − log π"),
  cliprange: z.number().nonnegative().default(0.2).describe("how far the ratio may leave 1"),
  vfCoef: z.number().nonnegative().default(0.1).describe("weight of the value loss"),
  cliprangeValue: z.number().nonnegative().default(0.2).describe("how far values may leave those of the rollout"),
  gamma: z.number().min(0).max(1).default(1).describe("discount"),
  lam: z.number().min(0).max(1).default(0.95).describe("λ of the generalised advantage estimate"),
  shuffleDataset: z.boolean().default(true).describe("a new random order of the prompts each epoch"),
  maxPromptLength: positiveInt.nullable().default(null).describe("longer prompts keep their last tokens only"),
  chatTemplateKwargs: chatTemplateVariables,
});
export type PPOOptions = z.input<typeof ppoSchema>;

/** The settings with what follows from them. */
export interface PPOValues extends z.output<typeof ppoSchema> {
  /** Completions of a rollout, and of one update. */
  readonly batchSize: number;
  readonly miniBatchSize: number;
}

const FOREIGN: ForeignOptions = {
  ...RL_FOREIGN,
  ...Object.fromEntries(
    ["sftModelPath", "rewardModelPath"].map((name) => [name, { because: "only TRL's scripts read it" }]),
  ),
  ...Object.fromEntries(
    [
      "worldSize",
      "numTotalBatches",
      "batchSize",
      "miniBatchSize",
      "microBatchSize",
      "localBatchSize",
      "localMiniBatchSize",
    ].map((name) => [name, { because: "it follows from other settings", only: [null] }]),
  ),
  datasetNumProc: { because: "rows are prepared in one process" },
};

/** TRL logs every rollout, and does not clip gradients. */
const DEFAULTS: TrainingArgumentsOptions = { learningRate: 3e-6, loggingSteps: 1, maxGradNorm: 0 };

const SHAPE = { owner: "PPOConfig", schema: ppoSchema, foreign: FOREIGN, defaults: DEFAULTS };

/**
 * TRL's PPOConfig: TrainingArguments, with learningRate 3e-6, loggingSteps 1 and maxGradNorm 0 by default, and the above in
 * one. Steps are rollouts. Throws OptionError as TrainingArguments does, and for sizes that do not divide.
 */
export class PPOConfig extends configClass<PPOOptions, z.output<typeof ppoSchema>, PPOValues>(
  (options) => splitConfig(SHAPE, options),
  complete,
) {}

function complete(given: z.output<typeof ppoSchema>, args: TrainingArguments): PPOValues {
  const fail = (message: string): never => {
    throw new OptionError(`PPOConfig: ${message}`);
  };
  const batchSize = args.perDeviceTrainBatchSize * args.gradientAccumulationSteps;
  const miniBatchSize = batchSize / given.numMiniBatches;
  if (!Number.isInteger(miniBatchSize)) {
    fail(`a rollout of ${batchSize} completions cannot be cut into ${given.numMiniBatches} equal minibatches`);
  }
  if (given.stopToken !== null && given.stopTokenId !== null) fail("give stopToken or stopTokenId, not both");
  if (given.whitenRewards && miniBatchSize < 8) {
    fail(`whitenRewards needs minibatches of at least 8 completions, found ${miniBatchSize}`);
  }
  if (args.evalStrategy !== "no") {
    fail('evalStrategy must be "no": samples of evalDataset are shown numSampleGenerations times instead');
  }
  return { ...given, batchSize, miniBatchSize };
}
