import { z } from "zod";
import { OptionError, parseOptions } from "../../util/options.ts";
import type { TrainingArgumentsOptions } from "../arguments.ts";
import { configClass } from "../config-class.ts";
import { activationShape, type ConfigShape, splitConfig } from "../config-options.ts";
import { type ForeignOptions, ROWS_FOREIGN, withoutForeign } from "../foreign-options.ts";
import { renamed } from "../option-names.ts";

const length = () => z.number().int().positive().nullable();

/** Settings of every preference trainer. */
export const answerShape = {
  maxLength: length().default(1024).describe("tokens of prompt and answer; longer sequences are cut; null: none is"),
  maxPromptLength: length().default(null).describe("longer prompts lose their beginning"),
  maxCompletionLength: length().default(null).describe("longer answers lose their end"),
  truncationMode: z
    .enum(["keep_start", "keep_end"])
    .default("keep_start")
    .describe("which end of a sequence longer than maxLength stays"),
  disableDropout: z.boolean().default(true).describe("train without dropout"),
  ...activationShape,
};

/** Settings of trainers that compare with a reference model. */
export const referenceShape = {
  modelAdapterName: z.string().nullable().default(null).describe("adapter to train; the one in use when left out"),
  refAdapterName: z
    .string()
    .nullable()
    .default(null)
    .describe("adapter that makes the reference model; the model as it is before training when left out"),
  precomputeRefLogProbs: z
    .boolean()
    .default(false)
    .describe("run the reference over the data once, before training, and keep its numbers"),
  precomputeRefBatchSize: length().default(null).describe("rows at once for that; those of a microbatch when left out"),
  refCacheDir: z
    .string()
    .nullable()
    .optional()
    .describe("folder that keeps those numbers between runs; left out: the library's cache; null: none"),
};

/** Numbers above 0. */
export const positive = () => z.number().positive();

const ANSWER_FOREIGN: ForeignOptions = {
  ...ROWS_FOREIGN,
  paddingFree: { because: "batches never have padding between sequences" },
  paddingValue: { because: "padding is not part of any sequence" },
  labelPadTokenId: { because: "labels are -100 where nothing is trained", only: [null, -100] },
  useLigerLoss: { because: "the loss never makes whole logits anyway" },
  useLogitsToKeep: { because: "the loss never makes whole logits anyway" },
  routerAuxLossCoef: { because: "models here have no experts", only: [null, 0] },
  isEncoderDecoder: { because: "models here are decoders", only: [null, false] },
  generateDuringEval: { because: "generate from the model in a callback's onEvaluate", only: [null, false] },
  tools: { because: "tools are a column of the rows", only: [null] },
};

const REFERENCE_FOREIGN: ForeignOptions = {
  syncRefModel: {
    because: "the reference stays what it is; train again from a merged model instead",
    only: [null, false],
  },
  refModelMixupAlpha: { because: "it goes with syncRefModel" },
  refModelSyncSteps: { because: "it goes with syncRefModel" },
  refModelInitKwargs: { because: "give the reference model loaded", only: [null] },
  forceUseRefModel: { because: "a reference model that is given is used" },
  referenceFree: { because: "without a reference model use CPOTrainer", only: [null, false] },
  baseModelAttributeName: { because: "the loss never makes whole logits anyway" },
};

/** The names and settings of one trainer. */
export type ConfigKind<S extends z.ZodObject> = Required<ConfigShape<S>>;

/** TRL has called it max_seq_length too, and the losses' plural names are slips that are easily made. */
export const PREFERENCE_ALIASES: Readonly<Record<string, string>> = {
  maxSeqLength: "maxLength",
  lossTypes: "lossType",
};

/** Where the defaults of TRL's preference trainers are not TrainingArguments'. */
const DEFAULTS: TrainingArgumentsOptions = { learningRate: 1e-6, loggingSteps: 10 };

export function configKind<S extends z.ZodObject>(
  owner: string,
  schema: S,
  more: { readonly reference?: boolean; readonly defaults?: TrainingArgumentsOptions } = {},
): ConfigKind<S> {
  const foreign = { ...ANSWER_FOREIGN, ...(more.reference && REFERENCE_FOREIGN) };
  return { owner, schema, foreign, aliases: PREFERENCE_ALIASES, defaults: { ...DEFAULTS, ...more.defaults } };
}

/** A trainer's own settings, checked, under any of their names; what they leave out is as in `base`. Throws OptionError. */
export function parseValues<S extends z.ZodObject>(
  { owner, schema, foreign, aliases }: ConfigKind<S>,
  options: object,
  base: object | false = {},
): z.output<S> {
  const given = renamed(owner, options as Record<string, unknown>, aliases);
  return parseOptions(owner, schema, { ...base, ...withoutForeign(owner, given, foreign) });
}

/** The base of a configuration of that kind. */
export function preferenceConfig<Options extends object, S extends z.ZodObject>(kind: ConfigKind<S>) {
  return configClass<Options, z.output<S>>((options) => {
    const { own, args } = splitConfig(kind, options);
    if (!args.labelSmoothingFactor) return { own, args };
    throw new OptionError(
      `${kind.owner}: labelSmoothingFactor is SFTTrainer's; the preference losses' is labelSmoothing`,
    );
  });
}

/** The settings of a kind among an object's properties. */
export function ownValues<S extends z.ZodObject>({ schema }: ConfigKind<S>, config: object): Record<string, unknown> {
  const values = config as Record<string, unknown>;
  return Object.fromEntries(Object.keys(schema.shape).map((key) => [key, values[key]]));
}
