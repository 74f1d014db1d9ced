import {
  Dataset,
  type PackingReport,
  pack,
  type RecipeReport,
  type Row,
  type TokenizedRow,
  tokenizeRows,
} from "../data/index.ts";
import type { CausalLM } from "../models/model.ts";
import { PeftModel } from "../peft/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { OptionError } from "../util/options.ts";
import { TrainingArguments, type TrainingArgumentsOptions } from "./arguments.ts";
import { type BatchSource, isBatchSource } from "./batches.ts";
import type { LogRow, TrainerCallback } from "./callbacks.ts";
import type { ComputeLoss } from "./loss.ts";
import type { ComputeMetrics, PreprocessLogits } from "./predictions.ts";
import { parseSft, SFTConfig, type SFTOptions, type SFTValues, sftValues } from "./sft-config.ts";
import { TokenizedSource } from "./tokenized-source.ts";
import { asTrainable } from "./trainable.ts";
import { type EvalSources, type PredictionOutput, Trainer } from "./trainer.ts";

export { SFTConfig, type SFTOptions, sftSchema } from "./sft-config.ts";

/** One data set, or several by name. */
export type EvalDatasets = Dataset<Row> | Readonly<Record<string, Dataset<Row>>>;

export interface SFTTrainerOptions extends SFTOptions {
  readonly model: PeftModel | CausalLM;
  readonly tokenizer?: Tokenizer | undefined;
  /** TRL's name for the tokenizer. */
  readonly processingClass?: Tokenizer | undefined;
  readonly trainDataset: Dataset<Row>;
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

/** What became of the training data. */
export interface DataReport {
  readonly recipe: RecipeReport;
  readonly packing: PackingReport | null;
}

/**
 * Supervised fine-tuning: rows of any recognised shape are rendered with the model's chat template, tokenised, packed if
 * wanted, and trained on. Throws OptionError for settings, and FormatError naming file and line at a malformed row.
 */
export class SFTTrainer extends Trainer {
  readonly tokenizer: Tokenizer;
  readonly dataReport: DataReport;
  private readonly evalSettings: PrepareSettings;

  constructor(options: SFTTrainerOptions) {
    const { model, tokenizer: named, processingClass, trainDataset, evalDataset, formattingFunc, ...rest } = options;
    const { args: given, callbacks, computeLoss, computeMetrics, preprocessLogitsForMetrics, ...sftOptions } = rest;
    const args = given instanceof TrainingArguments ? given : new SFTConfig(given);
    const sft = parseSft({ ...(args instanceof SFTConfig && sftValues(args)), ...defined(sftOptions) });
    const tokenizer = named ?? processingClass;
    if (!tokenizer) throw new OptionError("SFTTrainer: tokenizer is missing (processingClass, in TRL's terms)");
    const lm = model instanceof PeftModel ? model.model : model;
    const maxSeqLength = sft.maxSeqLength ?? lm.maxSeqLength ?? Math.min(lm.config.maxPositions, 2048);
    if (tokenizer.vocabSize > lm.config.vocabSize) {
      throw new OptionError(
        `the tokenizer has ${tokenizer.vocabSize} tokens but the model only ${lm.config.vocabSize}: they do not belong together`,
      );
    }
    const settings: PrepareSettings = { ...sft, maxSeqLength, tokenizer, formattingFunc };
    const evalSettings = { ...settings, packing: sft.evalPacking ?? sft.packing };
    const train = prepare(sft.shuffleDataset ? trainDataset.shuffle(args.seed) : trainDataset, settings);
    super({
      model: asTrainable(model, sft.activationMemory),
      args,
      train: new TokenizedSource(train.rows, {
        strategy: args.trainSamplingStrategy,
        seed: args.dataSeed ?? args.seed,
        rowsPerStep: args.perDeviceTrainBatchSize * args.gradientAccumulationSteps,
      }),
      evaluation: evalDataset && evalSources(evalDataset, evalSettings),
      callbacks,
      computeLoss,
      computeMetrics,
      preprocessLogitsForMetrics,
      maxPositions: maxSeqLength,
      offload: sft.activationOffloading,
    });
    this.tokenizer = tokenizer;
    this.dataReport = train.report;
    this.evalSettings = evalSettings;
  }

  /** As Trainer's, for rows that are prepared as those for training are. */
  override evaluate(data?: EvalDatasets | EvalSources, prefix?: string): Promise<LogRow> {
    return super.evaluate(data && evalSources(data, this.evalSettings), prefix);
  }

  /** As Trainer's, for rows that are prepared as those for training are. */
  override predict(data: Dataset<Row> | BatchSource, prefix?: string): Promise<PredictionOutput> {
    return super.predict(data instanceof Dataset ? evalSource(data, this.evalSettings) : data, prefix);
  }

  /** The adapter or model, with the tokenizer beside it. */
  override async saveModel(dir: string = this.args.outputDir): Promise<void> {
    await super.saveModel(dir);
    await this.tokenizer.savePretrained(dir);
  }
}

/** Data sets prepared; sources as they are. */
function evalSources(data: EvalDatasets | EvalSources, settings: PrepareSettings): EvalSources {
  if (data instanceof Dataset) return evalSource(data, settings);
  if (isBatchSource(data)) return data;
  const entries = Object.entries(data as Readonly<Record<string, Dataset<Row> | BatchSource>>);
  return Object.fromEntries(entries.map(([name, one]) => [name, isBatchSource(one) ? one : evalSource(one, settings)]));
}

function evalSource(dataset: Dataset<Row>, settings: PrepareSettings): TokenizedSource {
  return new TokenizedSource(prepare(dataset, settings).rows, { strategy: "sequential", seed: 0, rowsPerStep: 1 });
}

const defined = (options: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));

interface PrepareSettings extends SFTValues {
  readonly maxSeqLength: number;
  readonly tokenizer: Tokenizer;
  readonly formattingFunc: ((row: Row) => string) | undefined;
}

function prepare(dataset: Dataset<Row>, settings: PrepareSettings): { rows: TokenizedRow[][]; report: DataReport } {
  const { tokenizer, maxSeqLength, packing, packingStrategy, completionOnlyLoss, assistantOnlyLoss } = settings;
  const splits = packing && packingStrategy !== "bfd";
  const { rows, report: recipe } = tokenizeRows(asText(dataset, settings).located(), tokenizer, {
    ...(completionOnlyLoss !== null && { trainOn: completionOnlyLoss ? "completion" : "all" }),
    assistantOnlyLoss,
    // Strategies that split long rows get them whole.
    ...(!splits && { maxSeqLength }),
  });
  if (!packing) return { rows: rows.map((row) => [row]), report: { recipe, packing: null } };
  const { packs, report } = pack(rows, { maxSeqLength, strategy: packingStrategy });
  return { rows: packs, report: { recipe, packing: report } };
}

/** The rows with a text of their own, where a function or another column says what it is. */
function asText(dataset: Dataset<Row>, { formattingFunc, datasetTextField }: PrepareSettings): Dataset<Row> {
  if (formattingFunc) return dataset.map((row) => ({ text: formattingFunc(row) }));
  if (datasetTextField === "text") return dataset;
  if (!dataset.columnNames.includes(datasetTextField)) {
    throw new Error(
      `datasetTextField "${datasetTextField}" is not a column; there are ${dataset.columnNames.join(", ")}`,
    );
  }
  return dataset.map((row) => ({ text: row[datasetTextField] }));
}
