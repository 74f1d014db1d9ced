import type { CausalLM } from "../../models/model.ts";
import { asSequenceClassifier, SCORE_WEIGHT } from "../../models/score-head.ts";
import { PeftModel } from "../../peft/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { OptionError } from "../../util/options.ts";
import type { TrainingArgumentsOptions } from "../arguments.ts";
import type { TrainerCallback } from "../callbacks.ts";
import { asTrainable } from "../trainable.ts";
import { Trainer } from "../trainer.ts";
import { trainerFields } from "../trainer-fields.ts";
import { RewardConfig, type RewardOptions } from "./config.ts";
import { type RewardData, type RewardDataReport, rewardPairs } from "./data.ts";
import { rewardLoss } from "./loss.ts";
import { RewardPairSource } from "./pairs.ts";

export interface RewardTrainerOptions {
  /** A model without an adapter gets a score head if it has none; an adapter must train it: `taskType: "SEQ_CLS"`. */
  readonly model: PeftModel | CausalLM;
  readonly tokenizer?: Tokenizer | undefined;
  /** TRL's name for the tokenizer. */
  readonly processingClass?: Tokenizer | undefined;
  /** Rows { prompt?, chosen, rejected, margin? } of text or messages, or pairs already tokenised. */
  readonly trainDataset: RewardData;
  readonly evalDataset?: RewardData | undefined;
  readonly args?:
    | RewardConfig
    | (RewardOptions & TrainingArgumentsOptions)
    | Readonly<Record<string, unknown>>
    | undefined;
  readonly callbacks?: readonly TrainerCallback[] | undefined;
}

/**
 * Trains a model to score answers so that chosen ones score above rejected ones (TRL's RewardTrainer): LoRA with a score
 * head in PEFT's sequence-classifier format, or all weights. Throws OptionError for settings and models that do not fit,
 * FormatError at a malformed row.
 */
export class RewardTrainer extends Trainer {
  readonly tokenizer: Tokenizer | null;
  readonly dataReport: RewardDataReport;

  constructor(given: RewardTrainerOptions) {
    const options = trainerFields("RewardTrainer", given);
    const { model, trainDataset, evalDataset, callbacks } = options;
    const args = options.args instanceof RewardConfig ? options.args : new RewardConfig(options.args);
    const tokenizer = options.tokenizer ?? options.processingClass ?? null;
    const lm = prepared(model, args.seed);
    const train = rewardPairs(trainDataset, tokenizer, args.maxLength);
    const held = evalDataset && rewardPairs(evalDataset, tokenizer, args.maxLength);
    const longest = [...train.pairs, ...(held?.pairs ?? [])].reduce(
      (most, { chosenIds, rejectedIds }) => Math.max(most, chosenIds.length, rejectedIds.length),
      1,
    );
    super({
      model: asTrainable(model, args.activationMemory),
      args,
      train: new RewardPairSource(train.pairs, {
        shuffle: args.trainSamplingStrategy !== "sequential",
        seed: args.dataSeed ?? args.seed,
      }),
      evaluation: held && new RewardPairSource(held.pairs, { shuffle: false, seed: 0 }),
      callbacks,
      computeLoss: rewardLoss(args),
      maxPositions: Math.max(longest, lm.maxSeqLength ?? 1),
      offload: args.activationOffloading,
      hostBytes: args.activationHostMemory,
    });
    this.tokenizer = tokenizer;
    this.dataReport = train.report;
  }

  /** The adapter or classifier, with the tokenizer beside it. */
  override async saveModel(dir: string = this.args.outputDir): Promise<void> {
    await super.saveModel(dir);
    await this.tokenizer?.savePretrained(dir);
  }
}

/** The language model, with a score head of one label that is trained. */
function prepared(model: PeftModel | CausalLM, seed: number): CausalLM {
  if (model instanceof PeftModel) {
    const { config } = model.model;
    if (config.numLabels === 1 && model.adapter.replacement(SCORE_WEIGHT)) return model.model;
    const what =
      config.numLabels === null ? "the model has no score head" : `its score head has ${config.numLabels} labels`;
    throw new OptionError(
      `RewardTrainer: ${config.numLabels === 1 ? "the adapter does not train the score head" : what}: call ` +
        'addScoreHead(model), then getPeftModel(model, { taskType: "SEQ_CLS", … })',
    );
  }
  asSequenceClassifier(model, { numLabels: 1, seed });
  return model;
}
