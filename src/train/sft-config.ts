import { z } from "zod";
import { PACKING_STRATEGIES } from "../data/index.ts";
import { parseOptions } from "../util/options.ts";
import type { TrainingArgumentsOptions } from "./arguments.ts";
import { configClass } from "./config-class.ts";
import { activationShape, splitConfig } from "./config-options.ts";
import { type ForeignOptions, ROWS_FOREIGN, withoutForeign } from "./foreign-options.ts";
import { renamed } from "./option-names.ts";

/** What supervised fine-tuning adds to TrainingArguments (TRL's SFTConfig). */
export const sftSchema = z.strictObject({
  datasetTextField: z
    .string()
    .nullable()
    .default(null)
    .describe('column of plain text, taken whatever else rows have; left out: by their shape, "text" last'),
  maxSeqLength: z
    .number()
    .int()
    .positive()
    .nullable()
    .default(null)
    .describe("tokens of a row; longer ones are cut, and the report says how many; the model's when left out"),
  packing: z.boolean().default(false).describe("put several sequences into one row of maxSeqLength tokens"),
  packingStrategy: z.enum(PACKING_STRATEGIES).default("bfd").describe("how sequences are packed"),
  evalPacking: z.boolean().nullable().default(null).describe("pack the evaluation data; as packing when left out"),
  shuffleDataset: z.boolean().default(false).describe("shuffle the rows before they are packed"),
  completionOnlyLoss: z
    .boolean()
    .nullable()
    .default(null)
    .describe("train on completions only; left out: for prompt/completion rows yes, for others no"),
  assistantOnlyLoss: z.boolean().default(false).describe("train on the assistant's turns of conversations only"),
  ...activationShape,
});
export type SFTOptions = z.input<typeof sftSchema>;
export type SFTValues = z.output<typeof sftSchema>;

/** TRL's options that steer nothing here. */
const FOREIGN: ForeignOptions = {
  ...ROWS_FOREIGN,
  datasetBatchSize: { because: "rows are prepared one by one" },
  paddingFree: { because: "batches never have padding between sequences" },
  useLigerLoss: { because: "the loss never makes whole logits anyway" },
  datasetKwargs: { because: "rows are always prepared", only: [null] },
  truncationMode: { because: "rows are cut at their end", only: [null, "keep_start"] },
  lossType: { because: "give another loss as computeLoss", only: [null, "nll", "chunked_nll"] },
  chatTemplatePath: { because: "set the template on the tokenizer", only: [null] },
  eosToken: { because: "the tokenizer says which it is", only: [null] },
  routerAuxLossCoef: { because: "models here have no experts", only: [null, 0] },
};

// TRL has called it max_seq_length and, since 0.20, max_length.
const ALIASES: Readonly<Record<string, string>> = { maxLength: "maxSeqLength" };

/** SFT options checked, under any of their names; what they leave out is as in `base`. Throws OptionError. */
export function parseSft(options: Readonly<Record<string, unknown>>, base: object = {}): SFTValues {
  const owner = "SFTTrainer";
  const given = withoutForeign(owner, renamed(owner, options, ALIASES), FOREIGN);
  return parseOptions(owner, sftSchema, { ...base, ...given });
}

/** Where TRL's defaults are not TrainingArguments'. */
const DEFAULTS: TrainingArgumentsOptions = { learningRate: 2e-5, loggingSteps: 10 };

const SHAPE = { owner: "SFTConfig", schema: sftSchema, foreign: FOREIGN, aliases: ALIASES, defaults: DEFAULTS };

/** TRL's SFTConfig: TrainingArguments, with learningRate 2e-5 and loggingSteps 10 by default, and the above in one. */
export class SFTConfig extends configClass<SFTOptions, SFTValues>((options) => splitConfig(SHAPE, options)) {}

/** The SFT settings of a configuration. */
export function sftValues(config: SFTConfig): SFTValues {
  return parseSft(Object.fromEntries(Object.keys(sftSchema.shape).map((key) => [key, config[key as keyof SFTValues]])));
}
