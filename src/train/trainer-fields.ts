/** What people pass to a trainer's constructor: its fields by any of their names, and what is commonly passed by mistake. */
import { Dataset, PreparedDataset, StreamingDataset } from "../data/index.ts";
import { CausalLM } from "../models/model.ts";
import { PeftModel } from "../peft/index.ts";
import { nearest } from "../util/nearest.ts";
import { camelCase, OptionError } from "../util/options.ts";

/** What every trainer takes beside its settings. */
const FIELDS = ["model", "tokenizer", "processingClass", "trainDataset", "evalDataset", "args", "callbacks"] as const;

/** Fields of Python's trainers that are not there, with what to do instead; null and undefined ask for nothing. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  dataCollator:
    "batches have no padding; trainOnResponsesOnly, completionOnlyLoss and assistantOnlyLoss choose what is trained on",
  peftConfig: "give the model with its adapter: await FastLanguageModel.getPeftModel(model, { r: 16, … })",
  optimizers: "set args.optim and args.lrSchedulerType",
  optimizerClsAndKwargs: "set args.optim",
  modelInit: "give the model loaded",
  computeLossFunc: "give it as computeLoss (docs/training.md)",
  rewardProcessingClasses: "reward functions get texts; a reward model brings its own tokenizer",
  refModel: "this trainer takes none (for PPO name an adapter by args.refAdapterName)",
  valueModel: "call addValueAdapter(model), and leave it out",
};

/**
 * A trainer's options with its fields in camelCase; settings that may stand beside them stay as they are. Throws OptionError
 * naming `owner` where a field is unknown or given twice, or the model or the data are not what they should be.
 * @param more fields that only this trainer has
 * @param settings whether its settings may stand beside the fields; otherwise they belong into `args`
 */
export function trainerFields<T extends object>(
  owner: string,
  given: T,
  { more = [], settings = false }: { readonly more?: readonly string[]; readonly settings?: boolean } = {},
): T {
  if (!isPlain(given)) {
    throw new OptionError(`${owner}: expected one object, new ${owner}({ model, tokenizer, trainDataset, args })`);
  }
  const fields: readonly string[] = [...FIELDS, ...more];
  const options: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(given)) {
    const name = camelCase(key);
    if (fields.includes(name)) {
      if (Object.hasOwn(options, name)) throw new OptionError(`${owner}: "${key}" is given twice, in two spellings`);
      options[name] = value;
    } else if (Object.hasOwn(ELSEWHERE, name)) {
      if (value !== null && value !== undefined) throw new OptionError(`${owner}: no ${key} here: ${ELSEWHERE[name]}`);
    } else if (settings) {
      const close = nearest(name, fields);
      // Not for settings that are as near to one of their own: those are checked with the others.
      if (close && isOneSlip(name, close)) throw unknown(owner, key, `did you mean "${close}"?`);
      options[key] = value;
    } else if (value !== undefined) {
      const close = nearest(name, fields);
      throw unknown(owner, key, close ? `did you mean "${close}"?` : "settings go into args");
    }
  }
  checkModel(owner, options.model);
  checkData(owner, "trainDataset", options.trainDataset);
  return options as T;
}

const unknown = (owner: string, key: string, hint: string): OptionError =>
  new OptionError(`${owner}: unknown option "${key}"; ${hint}`);

/** Fields are long: two of them, or a field and a setting, are never this near to each other. */
const isOneSlip = (name: string, field: string): boolean =>
  field.length >= 5 && Math.abs(name.length - field.length) <= 2;

function checkModel(owner: string, model: unknown): void {
  if (model instanceof PeftModel || model instanceof CausalLM) return;
  const load = "FastLanguageModel.fromPretrained({ modelName: … })";
  const fail = (what: string): never => {
    throw new OptionError(`${owner}: model ${what}`);
  };
  if (model === undefined || model === null) fail(`is missing: load one with ${load}`);
  if (isThenable(model)) fail("is a Promise: await it first");
  if (typeof model === "string") fail(`is the text "${model}": load it first, with ${load}`);
  if (isPlain(model) && "model" in model) fail(`is what ${load} gives: take { model, tokenizer } out of it`);
  fail("is neither what fromPretrained nor what getPeftModel gives");
}

/** Kinds of data that some trainers take and others do not are for them to tell apart. */
function checkData(owner: string, field: string, data: unknown): void {
  if (data instanceof Dataset || data instanceof PreparedDataset || data instanceof StreamingDataset) return;
  const what = wrongData(data);
  if (what) throw new OptionError(`${owner}: ${field} ${what}`);
}

function wrongData(data: unknown): string | null {
  if (data === undefined || data === null) return "is missing: load one with await Dataset.load(…)";
  if (isThenable(data)) return "is a Promise: await it first";
  if (typeof data === "string") return `is the text "${data}": load it first, with await Dataset.load(…)`;
  if (isPlain(data) && "train" in data) return "has parts: give one, e.g. its train";
  return null;
}

const isThenable = (value: unknown): boolean =>
  typeof value === "object" && value !== null && typeof (value as { then?: unknown }).then === "function";

/** Objects as braces make them: not a model or a tokenizer. */
function isPlain(value: unknown): value is object {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
