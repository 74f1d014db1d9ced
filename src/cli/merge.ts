import { resolve } from "node:path";
import type { CausalLM } from "../models/model.ts";
import { saveModel } from "../models/save.ts";
import { CliCommand } from "./command.ts";
import { UsageError } from "./exit.ts";
import { addModelFlags, loadFromFlags } from "./loading.ts";
import { note, print } from "./terminal.ts";

const DTYPES = { bfloat16: "bf16", float16: "f16", float32: "f32" } as const;

/** `unsloth merge`: the adapter made part of the weights, as a model folder that needs no adapter. */
export function mergeCommand(): CliCommand {
  const command = new CliCommand("merge")
    .description("make an adapter part of the weights and write a model folder")
    .requiredOption("--output <dir>", "where the model goes")
    .addHelpText(
      "after",
      `
Examples:
  unsloth merge --adapter outputs --output merged
  unsloth merge --model Qwen/Qwen2.5-0.5B-Instruct --adapter outputs --output merged

Merge onto the 16-bit originals (the default): --load-in-4bit merges onto weights that were rounded to 4 bits first, as
training saw them, and gives a 16-bit model all the same.`,
    ) as CliCommand;
  addModelFlags(command);
  return command.action(runMerge) as CliCommand;
}

async function runMerge(flags: Readonly<Record<string, unknown>> & { readonly output: string }): Promise<void> {
  const { output } = flags;
  using loaded = await loadFromFlags(flags);
  const { peft, tokenizer, name } = loaded;
  if (!peft) throw new UsageError(`${name} is a model, not an adapter: give the adapter too, with --adapter DIR`);
  if (resolve(output) === resolve(peft.model.nameOrPath)) {
    throw new UsageError(`--output ${output} is the base model's own folder: give another, so that it stays as it is`);
  }
  const before = quantized(peft.model);
  const targets = peft.adapter.targets.length;
  const merged = await peft.mergeAndUnload({ dtype: DTYPES[(flags.dtype ?? "bfloat16") as keyof typeof DTYPES] });
  const decoded = before - quantized(merged);
  await saveModel(merged, output);
  await tokenizer.savePretrained(output);
  note(`merged the updates of ${targets} modules`);
  if (decoded > 0)
    note(`note: ${decoded} weights were quantised: merged onto their rounded numbers, they are 16-bit now`);
  print(output);
}

function quantized({ parameters }: CausalLM): number {
  return [...parameters.values()].filter(({ quantization }) => quantization).length;
}
