import type { z } from "zod";
import { withoutUnsupported } from "../../peft/unsupported.ts";
import { ALIASES, argumentsSchema } from "../../train/arguments.ts";
import { FOREIGN_ARGUMENTS, withoutForeign } from "../../train/foreign-options.ts";
import { parseSft, sftSchema } from "../../train/sft-config.ts";
import { camelCase, OptionError, parseOptions } from "../../util/options.ts";
import { UsageError } from "../exit.ts";
import { readConfigFile } from "./config-file.ts";
import { adapterSchema, dataSchema, modelSchema, runSchema } from "./schemas.ts";
import { type GivenSetting, SettingsTable } from "./table.ts";

/** What Unsloth's examples set, where it differs from Hugging Face's defaults. */
const DEFAULTS = {
  learningRate: 2e-4,
  perDeviceTrainBatchSize: 2,
  gradientAccumulationSteps: 4,
  loggingSteps: 1,
  seed: 3407,
};

/** A way of training: what it adds to models, data, adapters and training arguments. */
export interface TrainingMethod {
  /** Its section in files. */
  readonly name: string;
  /** Its heading in --help. */
  readonly heading: string;
  readonly schema: z.ZodObject;
  /** Fields of the schema that cannot be set here. */
  readonly omit?: readonly string[];
  /** Where training arguments' defaults are not Hugging Face's. */
  readonly defaults: Readonly<Record<string, unknown>>;
  /** Further names of its settings. */
  readonly aliases?: Readonly<Record<string, string>>;
  /** Whether an option of TRL's steers nothing here; may throw why it cannot be had. */
  readonly isForeign: (option: Readonly<Record<string, unknown>>) => boolean;
}

/** Supervised fine-tuning. */
const SFT: TrainingMethod = {
  name: "sft",
  heading: "Sequences:",
  schema: sftSchema,
  defaults: DEFAULTS,
  aliases: { maxLength: "maxSeqLength", sequenceLen: "maxSeqLength", cutoffLen: "maxSeqLength" },
  isForeign: isForeignSft,
};

/** Methods with commands of their own, whose sections mean nothing to others. */
const METHODS = ["dpo", "cpo", "orpo", "kto", "reward", "grpo", "ppo"];

/** Everything a training by a method can be told. */
export function trainingTable(method: TrainingMethod): SettingsTable {
  const { name, heading, schema, omit = [], defaults, aliases = {} } = method;
  return new SettingsTable({
    sweep: name === SFT.name ? "unsloth sweep" : `unsloth sweep ${name}`,
    groups: [
      { name: "model", heading: "Model:", schema: modelSchema },
      { name: "data", heading: "Data:", schema: dataSchema },
      { name: "run", heading: "Run:", schema: runSchema },
      {
        name: "lora",
        heading: "Adapter:",
        schema: adapterSchema,
        defaults: { r: 16, loraAlpha: 16 },
        omit: ["inferenceMode", "taskType"],
      },
      { name, heading, schema, omit },
      {
        name: "training",
        heading: "Training:",
        schema: argumentsSchema,
        defaults,
        omit: ["outputDir", "resumeFromCheckpoint"],
      },
    ],
    sections: {
      peft: "lora",
      dataset: "data",
      args: "training",
      train: "training",
      trainer: "training",
      trainingArguments: "training",
      ...(name === "sft" && { sequences: "sft" }),
    },
    aliases: {
      modelName: "model",
      modelNameOrPath: "model",
      baseModel: "model",
      "model.name": "model",
      "model.path": "model",
      "model.id": "model",
      dataset: "data",
      trainData: "data",
      trainFile: "data",
      "data.train": "data",
      "data.file": "data",
      "data.path": "data",
      evalDataset: "evalData",
      evalFile: "evalData",
      validationFile: "evalData",
      "data.eval": "evalData",
      "data.validation": "evalData",
      valSetSize: "evalSize",
      testSize: "evalSize",
      outputDir: "output",
      resumeFromCheckpoint: "resume",
      rank: "r",
      loraR: "r",
      loraRank: "r",
      "lora.alpha": "loraAlpha",
      "lora.dropout": "loraDropout",
      loraTargetModules: "targetModules",
      batch: "perDeviceTrainBatchSize",
      batchSize: "perDeviceTrainBatchSize",
      microBatchSize: "perDeviceTrainBatchSize",
      epochs: "numTrainEpochs",
      numEpochs: "numTrainEpochs",
      lr: "learningRate",
      optimizer: "optim",
      lrScheduler: "lrSchedulerType",
      ...ALIASES,
      ...aliases,
    },
    // Options of PEFT, Trainer and TRL that ask for nothing may stand in a file; others say why they cannot be had.
    foreign: (key, value, where) => {
      if (METHODS.includes(key) && typeof value === "object") {
        throw new UsageError(`${where}: the section "${key}" is for \`unsloth ${key}\``);
      }
      const one = { [key]: value };
      const isNone = (rest: Record<string, unknown>): boolean => Object.keys(rest).length === 0;
      return (
        isNone(withoutUnsupported(where, one)) ||
        isNone(withoutForeign(where, { [camelCase(key)]: value }, FOREIGN_ARGUMENTS)) ||
        isForeignTo(method, one, where)
      );
    },
  });
}

/** Everything `unsloth train` can be told. */
export const TRAIN_TABLE = trainingTable(SFT);

/** Errors that say why an option cannot be had get its place in the file. */
function isForeignTo(method: TrainingMethod, option: Readonly<Record<string, unknown>>, where: string): boolean {
  try {
    return method.isForeign(option);
  } catch (error) {
    if (error instanceof OptionError) throw new UsageError(error.message.replace(/^\w+: /, `${where}: `));
    throw error;
  }
}

/** Whether TRL has an option that steers nothing here: the parser takes those, and calls others unknown. */
function isForeignSft(option: Record<string, unknown>): boolean {
  try {
    parseSft(option);
    return true;
  } catch (error) {
    if (error instanceof OptionError && error.message.includes("unknown option")) return false;
    throw error;
  }
}

/** Settings of a training by a method, checked each by itself; the API checks them against one another. */
export interface MethodSettings {
  /** `model` is null when it was not given. */
  readonly model: Omit<z.output<typeof modelSchema>, "model"> & { readonly model: string | null };
  readonly data: Omit<z.output<typeof dataSchema>, "data"> & { readonly data: string | readonly string[] | null };
  readonly lora: Readonly<Record<string, unknown>>;
  /** What the method adds. */
  readonly method: Readonly<Record<string, unknown>>;
  /** Training arguments, outputDir included. */
  readonly args: Readonly<Record<string, unknown>> & { readonly outputDir: string };
  readonly run: Omit<z.output<typeof runSchema>, "output">;
}

/** The same of supervised fine-tuning. */
export interface TrainSettings extends Omit<MethodSettings, "method"> {
  readonly sft: Readonly<Record<string, unknown>>;
}

/** Settings as they were given, by name. */
export type Given = ReadonlyMap<string, GivenSetting>;

/** What a configuration file and flags give together; flags win. Throws UsageError naming file, line and option. */
export function givenSettings(
  configFile: string | undefined,
  flags: Readonly<Record<string, unknown>>,
  table = TRAIN_TABLE,
): Given {
  const fromFlags = table.fromFlags(flags);
  if (configFile === undefined) return fromFlags;
  const entries = readConfigFile(configFile, table.isSection);
  const sweep = entries.find(({ key, section }) => key === "sweep" && section === null);
  if (sweep) throw new UsageError(`${sweep.where}: "sweep" is for \`${table.sweep} ${configFile}\``);
  return new Map([...table.fromFile(entries), ...fromFlags]);
}

/** Given settings as the parts of the library take them, defaults filled in. */
export function trainSettings(given: Given): TrainSettings {
  const { method: sft, ...rest } = methodSettings(given, SFT, TRAIN_TABLE);
  return { ...rest, sft };
}

/** The same of any method. */
export function methodSettings(given: Given, method: TrainingMethod, table: SettingsTable): MethodSettings {
  const values = (group: string) => table.valuesOf(group, given);
  const model = parseOptions("model", modelSchema.partial({ model: true }), values("model"));
  const data = parseOptions("data", dataSchema.partial({ data: true }), values("data"));
  const { output, ...run } = parseOptions("run", runSchema, values("run"));
  return {
    model: { ...model, model: model.model ?? null },
    data: { ...data, data: data.data ?? null },
    lora: values("lora"),
    method: values(method.name),
    args: { ...method.defaults, ...values("training"), outputDir: output },
    run,
  };
}

/** The value, or a UsageError that says how to give it. */
export function required<T>(value: T | null, name: string, example: string): T {
  if (value !== null) return value;
  throw new UsageError(
    `${name} is missing: give --${name} ${example}, or "${camelCase(name)}: ${example}" in the file`,
  );
}
