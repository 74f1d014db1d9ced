import { Command } from "commander";
import { FastLanguageModel } from "../api/fast-language-model.ts";
import { promptIds } from "../generate/chat.ts";
import { generate } from "../generate/index.ts";
import { samplingSchema } from "../generate/sampling.ts";
import { PeftModel } from "../peft/index.ts";
import { addSchemaFlags, schemaValues } from "./flags.ts";

/** `unsloth generate`: answer a prompt, the text streamed as it comes. */
export function generateCommand(): Command {
  const command = new Command("generate")
    .description("answer a prompt")
    .requiredOption("--model <path>", "Hugging Face folder, .gguf file, or adapter folder")
    .requiredOption("--prompt <text>", "the user's message")
    .option("--adapter <dir>", "LoRA adapter to put on the model")
    .option("--system <text>", "system message")
    .option("--raw", "continue the prompt as plain text, without the chat template")
    .option("--load-in-4bit", "quantise the weights to NF4")
    .option("--dtype <name>", "float32, bfloat16 or float16: how weights are kept")
    .option("--threads <number>", "CPU threads");
  addSchemaFlags(command, samplingSchema);
  return command.action(runGenerate);
}

interface GenerateFlags {
  readonly model: string;
  readonly prompt: string;
  readonly adapter?: string;
  readonly system?: string;
  readonly raw?: boolean;
  readonly loadIn4bit?: boolean;
  readonly dtype?: string;
  readonly threads?: string;
}

async function runGenerate(flags: GenerateFlags): Promise<void> {
  const sampling = schemaValues(samplingSchema, { ...flags });
  const { model: loaded, tokenizer } = await FastLanguageModel.fromPretrained({
    modelName: flags.model,
    loadIn4bit: flags.loadIn4bit ?? false,
    dtype: flags.dtype ?? null,
    ...(flags.threads !== undefined && { threads: Number(flags.threads) }),
  });
  const lm = loaded instanceof PeftModel ? loaded.model : loaded;
  if (flags.adapter !== undefined) await PeftModel.fromPretrained(lm, flags.adapter);
  const prompt = promptIds(tokenizer, flags.prompt, {
    raw: flags.raw ?? false,
    ...(flags.system !== undefined && { system: flags.system }),
  });
  await generate(lm, tokenizer, [prompt], { ...sampling, onText: (text) => void process.stdout.write(text) });
  process.stdout.write("\n");
  lm.backend.dispose();
}
