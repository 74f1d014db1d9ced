/**
 * What Python users call by habit and that has another name or place here: calling it throws an OptionError that says
 * which. Not in the types, where the compiler already says so.
 */
import { Dataset, StreamingDataset } from "../data/index.ts";
import { CausalLM } from "../models/model.ts";
import { PeftModel } from "../peft/index.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import { Trainer } from "../train/trainer.ts";
import { OptionError } from "../util/options.ts";
import { FastLanguageModel } from "./fast-language-model.ts";

const GENERATE = "generate(model, tokenizer, [promptIds(tokenizer, prompt)], { maxNewTokens })";
const PUSH = "save to a folder, then pushToHub(folder, id)";
const MERGE = "saveModel(await model.mergeAndUnload(), folder) and tokenizer.savePretrained(folder)";
const GGUF = `GGUF files are read, not written: ${MERGE}, then llama.cpp's convert_hf_to_gguf.py`;
const DEVICE = "the device is chosen where the model is loaded: fromPretrained({ device })";

/** Methods of models, by their names in camelCase. */
const OF_MODELS: Readonly<Record<string, string>> = {
  generate: GENERATE,
  fastGenerate: GENERATE,
  pushToHub: PUSH,
  pushToHubMerged: `${MERGE}, then pushToHub(folder, id)`,
  pushToHubGguf: GGUF,
  savePretrainedMerged: MERGE,
  savePretrainedGguf: GGUF,
  saveLora: "model.savePretrained(folder)",
  to: DEVICE,
  cuda: DEVICE,
  cpu: DEVICE,
  train: "there is nothing to switch: training and generation are programs of their own",
  eval: "there is nothing to switch: training and generation are programs of their own",
};

const OF_TOKENIZERS: Readonly<Record<string, string>> = {
  pushToHub: PUSH,
  batchDecode: "rows.map((ids) => tokenizer.decode(ids))",
  convertTokensToIds: "tokenizer.tokenToId(token)",
};

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** Adds methods that throw, where there is no method of that name. */
function hint(target: object, owner: string, hints: Readonly<Record<string, string>>): void {
  for (const [name, instead] of Object.entries(hints)) {
    for (const spelling of new Set([name, snakeCase(name)])) {
      if (spelling in target) continue;
      const value = (): never => {
        throw new OptionError(`${owner}.${spelling} is not here; instead: ${instead}`);
      };
      Object.defineProperty(target, spelling, { value, configurable: true });
    }
  }
}

/** Methods in snake_case that name the right one. */
function renamed(target: object, owner: string): void {
  for (const name of Object.getOwnPropertyNames(target)) {
    const spelling = snakeCase(name);
    const { value: method } = Object.getOwnPropertyDescriptor(target, name)!;
    if (spelling === name || spelling.startsWith("_") || typeof method !== "function" || spelling in target) continue;
    const value = (): never => {
      throw new OptionError(`${owner}.${spelling} is called ${name} here`);
    };
    Object.defineProperty(target, spelling, { value, configurable: true });
  }
}

const CLASSES = { PeftModel, CausalLM, Tokenizer, Dataset, StreamingDataset, Trainer };

/** Puts the hints in place; once is enough. */
export function hintAtPythonNames(): void {
  renamed(FastLanguageModel, "FastLanguageModel");
  for (const [name, ofName] of Object.entries(CLASSES)) {
    renamed(ofName, name);
    renamed(ofName.prototype, name.toLowerCase());
  }
  hint(PeftModel.prototype, "model", OF_MODELS);
  hint(CausalLM.prototype, "model", { ...OF_MODELS, savePretrained: "saveModel(model, folder)" });
  hint(Tokenizer.prototype, "tokenizer", OF_TOKENIZERS);
  hint(Tokenizer, "Tokenizer", {
    fromPretrained: "FastLanguageModel.fromPretrained gives it, or Tokenizer.fromFolder",
  });
  hint(Dataset, "Dataset", { fromDict: "Dataset.fromColumns" });
  hint(Trainer.prototype, "trainer", { pushToHub: "trainer.saveModel(folder), then pushToHub(folder, id)" });
}
