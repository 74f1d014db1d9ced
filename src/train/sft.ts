import { z } from "zod";
import type { Dataset, PackingReport, RecipeReport, Row, TokenizedRow } from "../data/index.ts";
import { collate, PACKING_STRATEGIES, pack, Sampler, tokenizeRows } from "../data/index.ts";
import type { CausalLM } from "../models/model.ts";
import { PeftModel } from "../peft/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { camelCase, parseOptions } from "../util/options.ts";
import { TrainingArguments, type TrainingArgumentsOptions } from "./arguments.ts";
import type { BatchSource } from "./batches.ts";
import type { TrainerCallback } from "./callbacks.ts";
import type { ComputeLoss } from "./step.ts";
import { asTrainable } from "./trainable.ts";
import { Trainer } from "./trainer.ts";

/** What supervised fine-tuning adds to TrainingArguments (TRL's SFTConfig). */
export const sftSchema = z.strictObject({
  /** Column of plain text; rows of another recognised shape need none. */
  datasetTextField: z.string().default("text"),
  /** Tokens; longer rows are cut, and the report says how many. The model's maxSeqLength when left out. */
  maxSeqLength: z.number().int().positive().nullable().default(null),
  /** Put several sequences into one row of maxSeqLength tokens. */
  packing: z.boolean().default(false),
  packingStrategy: z.enum(PACKING_STRATEGIES).default("bfd"),
  /** Train on completions only; null: for prompt/completion rows yes, for others no. */
  completionOnlyLoss: z.boolean().nullable().default(null),
  /** Train on the assistant's turns of conversations only. */
  assistantOnlyLoss: z.boolean().default(false),
  /** Bytes of activations that "unsloth" gradient checkpointing may keep; null: most of the free memory. */
  activationMemory: z.number().int().positive().nullable().default(null),
});
export type SFTOptions = z.input<typeof sftSchema>;

/** TRL's SFTConfig: training arguments and the above in one. */
export class SFTConfig extends TrainingArguments {
  readonly sft: Readonly<z.output<typeof sftSchema>>;

  constructor(options: (SFTOptions & TrainingArgumentsOptions) | Record<string, unknown> = {}) {
    const isSft = (key: string): boolean => sftName(key) in sftSchema.shape;
    const entries = Object.entries(options);
    super(Object.fromEntries(entries.filter(([key]) => !isSft(key))));
    this.sft = parseSft(Object.fromEntries(entries.filter(([key]) => isSft(key))));
  }
}

// TRL has called it max_seq_length and, since 0.20, max_length.
const ALIASES: Readonly<Record<string, string>> = { maxLength: "maxSeqLength" };
const sftName = (key: string): string => ALIASES[camelCase(key)] ?? camelCase(key);

function parseSft(options: Readonly<Record<string, unknown>>): z.output<typeof sftSchema> {
  const renamed = Object.entries(options).map(([key, value]) => [key in sftSchema.shape ? key : sftName(key), value]);
  return parseOptions("SFTTrainer", sftSchema, Object.fromEntries(renamed));
}

export interface SFTTrainerOptions extends SFTOptions {
  readonly model: PeftModel | CausalLM;
  readonly tokenizer: Tokenizer;
  readonly trainDataset: Dataset<Row>;
  readonly evalDataset?: Dataset<Row> | undefined;
  /** Text of a row, instead of a column or a recognised shape. */
  readonly formattingFunc?: ((row: Row) => string) | undefined;
  readonly args?: TrainingArguments | TrainingArgumentsOptions | undefined;
  readonly callbacks?: readonly TrainerCallback[];
  readonly computeLoss?: ComputeLoss | undefined;
}

/** What became of the training data. */
export interface DataReport {
  readonly recipe: RecipeReport;
  readonly packing: PackingReport | null;
}

/**
 * Supervised fine-tuning: rows of any recognised shape are rendered with the model's chat template, tokenised, packed if
 * wanted, and trained on. Throws FormatError naming file and line at a malformed row.
 */
export class SFTTrainer extends Trainer {
  readonly tokenizer: Tokenizer;
  readonly dataReport: DataReport;

  constructor(options: SFTTrainerOptions) {
    const { model, tokenizer, trainDataset, evalDataset, formattingFunc, args, callbacks, computeLoss, ...rest } =
      options;
    const fromArgs = args instanceof SFTConfig ? args.sft : {};
    const sft = parseSft({ ...fromArgs, ...rest });
    const lm = model instanceof PeftModel ? model.model : model;
    const maxSeqLength = sft.maxSeqLength ?? lm.maxSeqLength ?? Math.min(lm.config.maxPositions, 2048);
    if (tokenizer.vocabSize > lm.config.vocabSize) {
      throw new Error(
        `the tokenizer has ${tokenizer.vocabSize} tokens but the model only ${lm.config.vocabSize}: they do not belong together`,
      );
    }
    const settings = { ...sft, maxSeqLength, tokenizer, formattingFunc };
    const trainingArguments = args instanceof TrainingArguments ? args : new TrainingArguments(args);
    const { seed, dataSeed } = trainingArguments.values;
    const train = prepare(trainDataset, settings);
    const shuffled = { seed: dataSeed ?? seed, shuffle: true };
    super({
      model: asTrainable(model, sft.activationMemory),
      args: trainingArguments,
      train: new TokenizedSource(train.rows, shuffled),
      evaluation: evalDataset && new TokenizedSource(prepare(evalDataset, settings).rows, { seed, shuffle: false }),
      callbacks: callbacks ?? [],
      computeLoss,
      maxPositions: maxSeqLength,
    });
    this.tokenizer = tokenizer;
    this.dataReport = train.report;
  }

  /** The adapter or model, with the tokenizer beside it. */
  override async saveModel(dir: string = this.args.outputDir): Promise<void> {
    await super.saveModel(dir);
    await this.tokenizer.savePretrained(dir);
  }
}

interface PrepareSettings extends z.output<typeof sftSchema> {
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

/** Tokenised rows in memory, shuffled anew each epoch. */
export class TokenizedSource implements BatchSource {
  private readonly rows: readonly (readonly TokenizedRow[])[];
  private readonly order: { seed: number; shuffle: boolean };

  constructor(rows: readonly (readonly TokenizedRow[])[], order: { seed: number; shuffle: boolean }) {
    this.rows = rows;
    this.order = order;
  }

  get length(): number {
    return this.rows.length;
  }

  *batches(epoch: number, batchSize: number) {
    const { length } = this;
    const sampler = Sampler.fromState({ length, ...this.order, epoch, position: 0 }, length);
    for (let left = length; left > 0; left -= batchSize) {
      yield collate(sampler.nextBatch(batchSize).map((index) => this.rows[index]!));
    }
  }
}
