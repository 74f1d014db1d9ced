import { Dataset, PreparedDataset, type ResponseParts, type Row } from "../data/index.ts";
import type { CausalLM } from "../models/model.ts";
import { PeftModel } from "../peft/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { OptionError } from "../util/options.ts";
import { TrainingArguments, type TrainingArgumentsOptions } from "./arguments.ts";
import { type BatchSource, isBatchSource } from "./batches.ts";
import type { LogRow, TrainerCallback } from "./callbacks.ts";
import type { ComputeLoss } from "./loss.ts";
import type { ComputeMetrics, PreprocessLogits } from "./predictions.ts";
import { parseSft, SFTConfig, type SFTOptions, sftValues } from "./sft-config.ts";
import { type DataReport, responsesOnly, type SFTData, type SFTDataSettings, sftRows } from "./sft-data.ts";
import { type RowOrder, TokenizedSource } from "./tokenized-source.ts";
import { asTrainable } from "./trainable.ts";
import { type EvalSources, type PredictionOutput, Trainer } from "./trainer.ts";
import { trainerFields } from "./trainer-fields.ts";

export { SFTConfig, type SFTOptions, sftSchema } from "./sft-config.ts";
export { type DataReport, recipeOptions, type SFTData } from "./sft-data.ts";

/** One data set, or several by name. */
export type EvalDatasets = SFTData | Readonly<Record<string, SFTData>>;

export interface SFTTrainerOptions extends SFTOptions {
  readonly model: PeftModel | CausalLM;
  readonly tokenizer?: Tokenizer | undefined;
  /** TRL's name for the tokenizer. */
  readonly processingClass?: Tokenizer | undefined;
  /** What is larger than memory goes through `prepareDataset` first. */
  readonly trainDataset: SFTData;
  readonly evalDataset?: EvalDatasets | undefined;
  /** Text of a row, instead of a column or a recognised shape. */
  readonly formattingFunc?: ((row: Row) => string) | undefined;
  /** Options as an object are those of SFTConfig. */
  readonly args?: TrainingArguments | (SFTOptions & TrainingArgumentsOptions) | undefined;
  readonly callbacks?: readonly TrainerCallback[] | undefined;
  readonly computeLoss?: ComputeLoss | undefined;
  readonly computeMetrics?: ComputeMetrics | undefined;
  readonly preprocessLogitsForMetrics?: PreprocessLogits | undefined;
}

/** What it takes beside its settings and every trainer's fields. */
const FIELDS = ["formattingFunc", "computeLoss", "computeMetrics", "preprocessLogitsForMetrics"];

/**
 * Supervised fine-tuning: rows of any recognised shape are rendered with the model's chat template, tokenised, packed if
 * wanted, and trained on. Throws OptionError for settings, and FormatError naming file and line at a malformed row.
 */
export class SFTTrainer extends Trainer {
  readonly tokenizer: Tokenizer;
  dataReport: DataReport;
  private readonly masked: (parts: ResponseParts) => {
    train: TokenizedSource;
    evaluation: EvalSources | undefined;
    report: DataReport;
  };
  private readonly evalSettings: SFTDataSettings;

  constructor(given: SFTTrainerOptions) {
    const options = trainerFields("SFTTrainer", given, { more: FIELDS, settings: true });
    const { model, tokenizer: named, processingClass, trainDataset, evalDataset, formattingFunc, ...rest } = options;
    const { args: givenArgs, callbacks, computeLoss, computeMetrics, preprocessLogitsForMetrics, ...sftOptions } = rest;
    const args = givenArgs instanceof TrainingArguments ? givenArgs : new SFTConfig(givenArgs);
    const sft = parseSft(sftOptions as Record<string, unknown>, args instanceof SFTConfig ? sftValues(args) : {});
    const tokenizer = named ?? processingClass;
    if (!tokenizer) throw new OptionError("SFTTrainer: tokenizer is missing (processingClass, in TRL's terms)");
    const lm = model instanceof PeftModel ? model.model : model;
    const maxSeqLength = sft.maxSeqLength ?? lm.maxSeqLength ?? Math.min(lm.config.maxPositions, 2048);
    if (tokenizer.vocabSize > lm.config.vocabSize) {
      throw new OptionError(
        `the tokenizer has ${tokenizer.vocabSize} tokens but the model only ${lm.config.vocabSize}: they do not belong together`,
      );
    }
    const settings: SFTDataSettings = { ...sft, maxSeqLength, tokenizer, formattingFunc };
    const evalSettings = { ...settings, packing: sft.evalPacking ?? sft.packing };
    const shuffleSeed = sft.shuffleDataset ? args.seed : null;
    const train = sftRows(trainDataset, settings, shuffleSeed);
    const order: RowOrder = {
      strategy: args.trainSamplingStrategy,
      seed: args.dataSeed ?? args.seed,
      rowsPerStep: args.perDeviceTrainBatchSize * args.gradientAccumulationSteps,
    };
    super({
      model: asTrainable(model, sft.activationMemory),
      args,
      train: new TokenizedSource(train.rows, order),
      evaluation: evalDataset && evalSources(evalDataset, evalSettings),
      callbacks,
      computeLoss,
      computeMetrics,
      preprocessLogitsForMetrics,
      maxPositions: maxSeqLength,
      offload: sft.activationOffloading,
      hostBytes: sft.activationHostMemory,
    });
    this.tokenizer = tokenizer;
    this.dataReport = train.report;
    this.evalSettings = evalSettings;
    this.masked = (parts) => {
      const { rows, report } = sftRows(responsesOnly(trainDataset, parts), settings, shuffleSeed);
      const evaluation = evalDataset && mapData(evalDataset, (data) => responsesOnly(data, parts));
      return {
        train: new TokenizedSource(rows, order),
        evaluation: evaluation && evalSources(evaluation, evalSettings),
        report,
      };
    };
  }

  /** As `trainOnResponsesOnly`: masks the trainer's data anew, that for evaluation too; before training. */
  trainOnResponsesOnly(parts: ResponseParts = {}): this {
    if (this.state.globalStep > 0) throw new OptionError("trainOnResponsesOnly: call it before train()");
    const { train, evaluation, report } = this.masked(parts);
    this.replaceData(train, evaluation);
    this.dataReport = report;
    return this;
  }

  /** As Trainer's, for rows that are prepared as those for training are. */
  override evaluate(data?: EvalDatasets | EvalSources, prefix?: string): Promise<LogRow> {
    return super.evaluate(data && evalSources(data, this.evalSettings), prefix);
  }

  /** As Trainer's, for rows that are prepared as those for training are. */
  override predict(data: SFTData | BatchSource, prefix?: string): Promise<PredictionOutput> {
    return super.predict(isBatchSource(data) ? data : evalSource(data, this.evalSettings), prefix);
  }

  /** The adapter or model, with the tokenizer beside it. */
  override async saveModel(dir: string = this.args.outputDir): Promise<void> {
    await super.saveModel(dir);
    await this.tokenizer.savePretrained(dir);
  }
}

/** Data sets prepared; sources as they are. */
function evalSources(data: EvalDatasets | EvalSources, settings: SFTDataSettings): EvalSources {
  if (isBatchSource(data)) return data;
  if (isData(data)) return evalSource(data, settings);
  const entries = Object.entries(data as Readonly<Record<string, SFTData | BatchSource>>);
  return Object.fromEntries(entries.map(([name, one]) => [name, isBatchSource(one) ? one : evalSource(one, settings)]));
}

function evalSource(data: SFTData, settings: SFTDataSettings): TokenizedSource {
  return new TokenizedSource(sftRows(data, settings).rows, { strategy: "sequential", seed: 0, rowsPerStep: 1 });
}

const isData = (data: object): data is SFTData => data instanceof Dataset || data instanceof PreparedDataset;

function mapData(data: EvalDatasets, map: (data: SFTData) => SFTData): EvalDatasets {
  if (isData(data)) return map(data);
  return Object.fromEntries(Object.entries(data).map(([name, one]) => [name, map(one)]));
}
