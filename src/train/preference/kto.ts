import { type Dataset, type Row, tokenizeUnpaired } from "../../data/index.ts";
import { answerLength, collateUnpaired, type ScoredAnswer } from "../../data/preference-batch.ts";
import { OptionError } from "../../util/options.ts";
import type { TrainingArguments, TrainingArgumentsOptions } from "../arguments.ts";
import type { BatchSource } from "../batches.ts";
import type { LogRow } from "../callbacks.ts";
import type { PredictionOutput } from "../trainer.ts";
import { KTO_KIND, KTOConfig, type KTOOptions } from "./kto-config.ts";
import { withMeansByKind } from "./kto-logs.ts";
import { ktoLoss, ktoReference } from "./kto-loss.ts";
import { dataOptions, longestRow } from "./pairs.ts";
import { planReference, type RefModel, useAdapter } from "./reference-plan.ts";
import { PreferenceTrainer, type PreferenceTrainerOptions, tokenizerOf, tracesWithoutDropout } from "./trainer.ts";
import { trainerSettings } from "./trainer-settings.ts";

export { KTOConfig, type KTOOptions, ktoSchema } from "./kto-config.ts";

export interface KTOTrainerOptions extends PreferenceTrainerOptions, KTOOptions {
  /** The reference model; left out, it is the model as it is before training, with its adapter where that has an effect. */
  readonly refModel?: RefModel | null | undefined;
  /** Options as an object are those of KTOConfig. */
  readonly args?: TrainingArguments | (KTOOptions & TrainingArgumentsOptions) | undefined;
}

/**
 * Kahneman–Tversky Optimization (Ethayarajh et al. 2024): rows of a prompt with one answer and whether it is wanted; rows
 * of pairs are taken apart. Rows with an empty answer are left out (`dataReport`). Throws OptionError for settings, and
 * FormatError naming file and line at a malformed row.
 */
export class KTOTrainer extends PreferenceTrainer<ScoredAnswer> {
  constructor(given: KTOTrainerOptions) {
    const { owner } = KTO_KIND;
    const { options, args, values } = trainerSettings(KTO_KIND, KTOConfig, given, ["refModel"]);
    const { model, refModel } = options;
    const { lossType, desirableWeight, undesirableWeight, maxLength } = values;
    const mismatched = lossType === "kto";
    if (mismatched && args.perDeviceTrainBatchSize < 2) {
      const why = "each prompt is paired with another one's answer of its microbatch";
      throw new OptionError(`${owner}: loss "kto" needs perDeviceTrainBatchSize 2 or more: ${why}`);
    }
    const tokenizer = tokenizerOf(owner, options);
    useAdapter(owner, model, values.modelAdapterName);
    const disableDropout = tracesWithoutDropout(owner, model, values, args);
    super(options, {
      owner,
      args,
      values,
      tokenize(data) {
        const { answers, report } = tokenizeUnpaired(data.located(), tokenizer, dataOptions(values));
        return { items: answers, report };
      },
      rowsOf: ({ row }) => [row],
      batches: {
        tokens: ({ row }) => row.inputIds.length,
        plainTokens: () => 1,
        collate: (answers) => collateUnpaired(answers, { mismatched, desirableWeight, undesirableWeight, maxLength }),
      },
      longest(answers) {
        if (!mismatched || maxLength !== null) return longestRow(answers.map(({ row }) => row));
        // A prompt may get any other one's answer.
        const lengths = answers.map(({ row }) => ({ answer: answerLength(row), all: row.inputIds.length }));
        const most = (of: (one: { answer: number; all: number }) => number): number =>
          lengths.reduce((longest, one) => Math.max(longest, of(one)), 0);
        return most(({ answer, all }) => all - answer) + most(({ answer }) => answer);
      },
      loss(maxPositions) {
        const { precomputeRefLogProbs: precompute } = values;
        const plan = planReference({ ...values, owner, model, refModel, precompute, maxPositions });
        const { reference, scorer, initial } = plan;
        const loss = ktoLoss({ ...values, reference, disableDropout });
        if (!scorer) return { loss, reference: null, initial };
        if (mismatched && args.trainSamplingStrategy !== "sequential") {
          const why = 'numbers computed beforehand are those of a fixed order: set trainSamplingStrategy "sequential"';
          throw new OptionError(`${owner}: ${why}, or lossType "apo_zero_unpaired"`);
        }
        const batchSize = { train: args.perDeviceTrainBatchSize, eval: args.perDeviceEvalBatchSize };
        return {
          loss,
          initial,
          reference: {
            plan: { ...plan, scorer },
            cacheDir: values.refCacheDir,
            settings: { lossType, maxLength, batchSize: mismatched ? batchSize : null },
            batchSize,
            forward: (ctx, trace) => ktoReference(ctx, trace, lossType),
            numbers: (outputs, i) => [outputs.reference![i]!, outputs["kl.reference"]?.[i] ?? 0],
          },
        };
      },
    });
  }

  /** As Trainer's, with the metrics that are logged. */
  override async predict(data: Dataset<Row> | BatchSource, prefix?: string): Promise<PredictionOutput> {
    const { metrics, ...prediction } = await super.predict(data, prefix);
    return { ...prediction, metrics: withMeansByKind(metrics) };
  }

  /** As Trainer's, means over wanted and unwanted answers made of their shares. */
  override log(logs: LogRow, speed: LogRow = {}): Promise<LogRow> {
    return super.log(withMeansByKind(logs), speed);
  }
}
