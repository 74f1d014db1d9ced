import type { Tokenizer } from "../tokenizer/index.ts";
import { OptionError } from "../util/options.ts";

/** Token ids of a prompt: as a user's turn of the model's chat template, or as plain text when it has none. */
export function promptIds(
  tokenizer: Tokenizer,
  prompt: string,
  options: { raw?: boolean; system?: string } = {},
): number[] {
  if (typeof prompt !== "string") {
    const conversation = "tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true })";
    throw new OptionError(`promptIds: expected a text; ids of a conversation are ${conversation}`);
  }
  if (options.raw || tokenizer.chatTemplate === null) return tokenizer.encode(prompt);
  const messages = [
    ...(options.system ? [{ role: "system", content: options.system }] : []),
    { role: "user", content: prompt },
  ];
  return tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
}
