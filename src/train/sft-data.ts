import {
  Dataset,
  memoryStore,
  type PackedRows,
  type PackingReport,
  PreparedDataset,
  packedRows,
  planPacks,
  type RecipeOptions,
  type RecipeReport,
  type ResponseParts,
  type Row,
  type RowStore,
  StreamingDataset,
  tokenizeRows,
  tokenizerFingerprint,
} from "../data/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { OptionError } from "../util/options.ts";
import { Rng } from "../util/rng.ts";
import type { SFTValues } from "./sft-config.ts";

/** Rows, or rows that `prepareDataset` has tokenized. */
export type SFTData = Dataset<Row> | PreparedDataset;

/** What became of the training data. */
export interface DataReport {
  readonly recipe: RecipeReport;
  readonly packing: PackingReport | null;
}

export interface SFTDataSettings extends SFTValues {
  readonly maxSeqLength: number;
  readonly tokenizer: Tokenizer;
  readonly formattingFunc: ((row: Row) => string) | undefined;
}

/**
 * SFT options as `prepareDataset` takes them, so that rows prepared so can be trained on with these options. `maxSeqLength`
 * is the model's where the options have none.
 */
export function recipeOptions(
  sft: Pick<SFTValues, "packing" | "packingStrategy" | "completionOnlyLoss" | "assistantOnlyLoss" | "datasetTextField">,
  maxSeqLength: number,
): RecipeOptions {
  const splits = sft.packing && sft.packingStrategy !== "bfd";
  return {
    ...(sft.completionOnlyLoss !== null && { trainOn: sft.completionOnlyLoss ? "completion" : "all" }),
    assistantOnlyLoss: sft.assistantOnlyLoss,
    textField: sft.datasetTextField,
    // Strategies that split long rows get them whole.
    ...(!splits && { maxSeqLength }),
  };
}

/**
 * Rows tokenized, and packed if wanted. `shuffleSeed`: to be shuffled before that.
 * Throws OptionError for data that was prepared in a way that does not fit, and FormatError at a malformed row.
 */
export function sftRows(
  data: SFTData,
  settings: SFTDataSettings,
  shuffleSeed: number | null = null,
): { rows: PackedRows; report: DataReport } {
  const { maxSeqLength, packing, packingStrategy } = settings;
  const { store, report: recipe } =
    data instanceof Dataset
      ? tokenized(shuffleSeed === null ? data : data.shuffle(shuffleSeed), settings)
      : prepared(data, settings, shuffleSeed);
  if (!packing) return { rows: packedRows(store, null), report: { recipe, packing: null } };
  const lengths = Uint32Array.from({ length: store.length }, (_, i) => store.lengthOf(i));
  const { plan, report } = planPacks(lengths, { maxSeqLength, strategy: packingStrategy });
  return { rows: packedRows(store, plan), report: { recipe, packing: report } };
}

/** Data of which only the responses are trained on. */
export function responsesOnly<T extends SFTData>(data: T, parts: ResponseParts): Dataset<Row> {
  if (data instanceof Dataset) return data.trainOnResponsesOnly(parts);
  throw new OptionError(
    "trainOnResponsesOnly: the rows were tokenized by prepareDataset; give it the option responses: {} instead",
  );
}

function tokenized(dataset: Dataset<Row>, settings: SFTDataSettings): { store: RowStore; report: RecipeReport } {
  const { tokenizer, maxSeqLength, formattingFunc } = settings;
  const options = { ...recipeOptions(settings, maxSeqLength), responses: dataset.responses };
  const { rows, report } = formattingFunc
    ? tokenizeRows(dataset.map((row) => ({ text: formattingFunc(row) })).located(), tokenizer, {
        ...options,
        textField: "text",
      })
    : tokenizeRows(dataset.located(), tokenizer, options);
  return { store: memoryStore(rows), report };
}

function prepared(
  data: PreparedDataset,
  settings: SFTDataSettings,
  shuffleSeed: number | null,
): { store: RowStore; report: RecipeReport } {
  if (!(data instanceof PreparedDataset)) {
    const found: unknown = data;
    if (Array.isArray(found)) throw new OptionError("SFTTrainer: data is an array: make it Dataset.fromList(rows)");
    const what = found instanceof StreamingDataset ? "a StreamingDataset" : "something else";
    throw new OptionError(
      `SFTTrainer: data is ${what}; give a Dataset, or prepareDataset(…) of what is larger than memory`,
    );
  }
  const { recipe, longest } = data;
  const refuse = (what: string): never => {
    throw new OptionError(`SFTTrainer: ${what} and prepare the data set again`);
  };
  if (data.tokenizerKey !== tokenizerFingerprint(settings.tokenizer)) {
    refuse("the data set was prepared with another tokenizer or chat template: give prepareDataset this one,");
  }
  if (settings.formattingFunc) refuse("formattingFunc comes too late for a prepared data set: use dataset.map");
  if (settings.assistantOnlyLoss && !recipe.assistantOnlyLoss && !recipe.responses) {
    refuse("assistantOnlyLoss comes too late for a prepared data set: give it to prepareDataset");
  }
  const trainOn = settings.completionOnlyLoss === null ? undefined : settings.completionOnlyLoss ? "completion" : "all";
  if (trainOn !== undefined && trainOn !== recipe.trainOn) {
    refuse(`completionOnlyLoss comes too late for a prepared data set: give prepareDataset trainOn: "${trainOn}"`);
  }
  if (!settings.packing && longest > settings.maxSeqLength) {
    refuse(`rows have up to ${longest} tokens: give prepareDataset maxSeqLength: ${settings.maxSeqLength}`);
  }
  return { store: shuffleSeed === null ? data : shuffled(data, shuffleSeed), report: data.report };
}

function shuffled(store: RowStore, seed: number): RowStore {
  const order = new Rng(seed).permutation(store.length);
  return {
    length: store.length,
    lengthOf: (index) => store.lengthOf(order[index]!),
    get: (index) => store.get(order[index]!),
  };
}
