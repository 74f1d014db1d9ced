import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { FastLanguageModel, loadTokenizer } from "../api/fast-language-model.ts";
import { locateModel } from "../api/locate.ts";
import type { LoadProgress } from "../models/load/fill.ts";
import type { CausalLM } from "../models/model.ts";
import { PeftModel } from "../peft/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { CliCommand } from "./command.ts";
import { UsageError } from "./exit.ts";
import { addSchemaFlags, kebab, optionKey, schemaValues } from "./flags.ts";
import { placed } from "./settings/placed-errors.ts";
import { deviceShape, offloadShape } from "./settings/schemas.ts";
import { formatBytes, note } from "./terminal.ts";

const modelSchema = z.strictObject({
  model: z.string().min(1).optional().describe("Hugging Face folder, .gguf file, adapter folder, or id on the hub"),
  adapter: z.string().min(1).optional().describe("LoRA adapter to put on the model: folder or hub id"),
  revision: z.string().min(1).optional().describe("branch, tag or commit of a model of the hub"),
  loadIn4bit: z.boolean().optional().describe("quantise the weights to NF4"),
  loadIn8bit: z.boolean().optional().describe("quantise the weights to 8 bits"),
  ...deviceShape,
  dtype: z.enum(["float32", "bfloat16", "float16"]).optional().describe("how other weights are kept"),
  ...offloadShape,
});

/** Flags that say which model to use. */
export function addModelFlags(command: CliCommand): void {
  command.optionsGroup("Model:");
  addSchemaFlags(command, modelSchema);
  command.optionsGroup("Options:");
}

/** A model ready to be used, with its adapter and tokenizer. */
export interface LoadedModel extends Disposable {
  readonly lm: CausalLM;
  readonly peft: PeftModel | null;
  readonly tokenizer: Tokenizer;
  /** As given: for messages. */
  readonly name: string;
}

/** Loads what the model flags say, showing progress. The caller disposes of it. Throws UsageError without a model. */
export async function loadFromFlags(flags: Readonly<Record<string, unknown>>): Promise<LoadedModel> {
  const { model, adapter, ...rest } = checkedFlags(modelSchema, flags);
  const name = model ?? adapter;
  if (name === undefined) throw new UsageError("give the model: --model PATH (or --adapter DIR, which names its own)");
  const { model: loaded, tokenizer } = await FastLanguageModel.fromPretrained({
    ...rest,
    loadIn4bit: rest.loadIn4bit ?? false,
    modelName: name,
    onDevice: note,
    onProgress: loadingLine(name),
  }).catch((error: unknown) => {
    throw placed(error, (option) => (flags[optionKey(option)] === undefined ? undefined : `--${kebab(option)}`));
  });
  const own = loaded instanceof PeftModel ? (loaded as PeftModel) : null;
  const lm = own?.model ?? loaded;
  try {
    const further = model !== undefined && adapter !== undefined ? await putOn(lm, adapter) : null;
    for (const warning of [...lm.warnings, ...((further?.peft ?? own)?.warnings ?? [])]) note(`note: ${warning}`);
    return {
      lm,
      peft: further?.peft ?? own,
      tokenizer: further?.tokenizer ?? tokenizer,
      name,
      [Symbol.dispose]: () => lm.backend.dispose(),
    };
  } catch (error) {
    lm.backend.dispose();
    throw error;
  }
}

/** The flags of a schema, checked. Throws UsageError naming the flag. */
export function checkedFlags<S extends z.ZodObject>(schema: S, flags: Readonly<Record<string, unknown>>): z.output<S> {
  const parsed = schema.safeParse(schemaValues(schema, flags));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  const [name] = issue.path;
  throw new UsageError(
    `--${kebab(String(name))}: ${issue.message}, found ${JSON.stringify(flags[optionKey(String(name))])}`,
  );
}

/** An adapter, and the tokenizer beside it if there is one: training may have given it another template. */
async function putOn(lm: CausalLM, adapter: string): Promise<{ peft: PeftModel; tokenizer: Tokenizer | null }> {
  const { path } = await locateModel(adapter);
  const peft = await PeftModel.fromPretrained(lm, path);
  const hasTokenizer = existsSync(join(path, "tokenizer.json"));
  return { peft, tokenizer: hasTokenizer ? await loadTokenizer(path) : null };
}

/** How far loading is: one line redrawn in a terminal, nothing elsewhere. */
export function loadingLine(name: string, stream = process.stderr): ((progress: LoadProgress) => void) | undefined {
  if (!stream.isTTY) return undefined;
  return ({ done, total }) => {
    const percent = total > 0 ? Math.floor((100 * done) / total) : 100;
    stream.write(`\r\x1b[Kloading ${name}: ${percent}% of ${formatBytes(total)}${done >= total ? "\r\x1b[K" : ""}`);
  };
}
