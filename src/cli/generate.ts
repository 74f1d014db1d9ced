import { readFileSync } from "node:fs";
import { promptIds } from "../generate/chat.ts";
import { generate } from "../generate/index.ts";
import { samplingSchema } from "../generate/sampling.ts";
import { CliCommand } from "./command.ts";
import { addSchemaFlags, schemaValues } from "./flags.ts";
import { addModelFlags, loadFromFlags } from "./loading.ts";
import { print, write } from "./terminal.ts";

/** `unsloth generate`: answer a prompt, the text streamed as it comes. */
export function generateCommand(): CliCommand {
  const command = new CliCommand("generate")
    .description("answer a prompt")
    .requiredOption("--prompt <text>", "the user's message; - reads it from standard input")
    .option("--system <text>", "system message")
    .option("--raw", "continue the prompt as plain text, without the chat template")
    .option("--json", "the whole answer as JSON, rather than its text as it comes")
    .addHelpText(
      "after",
      `
Examples:
  unsloth generate --model Qwen/Qwen2.5-0.5B-Instruct --prompt "Why is the sky blue?"
  unsloth generate --adapter outputs --prompt - --do-sample --temperature 0.7 < question.txt`,
    ) as CliCommand;
  addModelFlags(command);
  command.optionsGroup("Sampling:");
  addSchemaFlags(command, samplingSchema);
  return command.action(runGenerate) as CliCommand;
}

interface GenerateFlags extends Readonly<Record<string, unknown>> {
  readonly prompt: string;
  readonly system?: string;
  readonly raw?: boolean;
  readonly json?: boolean;
}

async function runGenerate(flags: GenerateFlags): Promise<void> {
  const sampling = schemaValues(samplingSchema, flags);
  const text = flags.prompt === "-" ? readFileSync(0, "utf8").trimEnd() : flags.prompt;
  using loaded = await loadFromFlags(flags);
  const { lm, tokenizer } = loaded;
  const prompt = promptIds(tokenizer, text, {
    raw: flags.raw ?? false,
    ...(flags.system !== undefined && { system: flags.system }),
  });
  if (!flags.json) {
    await generate(lm, tokenizer, [prompt], { ...sampling, onText: write });
    return print();
  }
  const [answer] = await generate(lm, tokenizer, [prompt], sampling);
  const { text: output, finishReason, tokens } = answer!;
  print(JSON.stringify({ text: output, finishReason, promptTokens: prompt.length, tokens: tokens.length }));
}
