import { chatml } from "./chatml.ts";
import { llama3, llama31 } from "./llama-3.ts";
import { qwen3, qwen25 } from "./qwen.ts";
import { alpaca, gemma2, mistral, phi3, vicuna, zephyr } from "./turns.ts";

/** A chat template that is chosen by name. */
export interface NamedTemplate {
  /** Jinja source; of the system message used where a conversation has none, a Jinja string, if there is such a one. */
  source: string | ((system: string) => string);
  system?: string;
  /** The token that ends a turn; null where that is the tokenizer's EOS. */
  endOfTurn: string | null;
}

export const CHAT_TEMPLATES = {
  chatml: { source: chatml, endOfTurn: "<|im_end|>" },
  "llama-3": { source: llama3, endOfTurn: "<|eot_id|>" },
  "llama-3.1": { source: llama31, endOfTurn: "<|eot_id|>" },
  "qwen-2.5": {
    source: qwen25,
    system: "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    endOfTurn: "<|im_end|>",
  },
  "qwen-3": { source: qwen3, endOfTurn: "<|im_end|>" },
  "gemma-2": { source: gemma2, endOfTurn: "<end_of_turn>" },
  mistral: { source: mistral, endOfTurn: null },
  "phi-3": { source: phi3, endOfTurn: "<|end|>" },
  alpaca: {
    source: alpaca,
    system: "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    endOfTurn: null,
  },
  vicuna: {
    source: vicuna,
    system:
      "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, " +
      "and polite answers to the user's questions.",
    endOfTurn: null,
  },
  zephyr: { source: zephyr, endOfTurn: null },
} as const satisfies Record<string, NamedTemplate>;

export type ChatTemplateName = keyof typeof CHAT_TEMPLATES;

/** Other models that use one of the formats, by letters and digits only. */
const ALIASES: Readonly<Record<string, ChatTemplateName>> = {
  llama32: "llama-3.1",
  llama33: "llama-3.1",
  gemma: "gemma-2",
  phi35: "phi-3",
  qwen2: "qwen-2.5",
  im: "chatml",
};

/** The template's name, however its dashes, dots and capitals are written; null if there is none of that name. */
export function chatTemplateName(name: string): ChatTemplateName | null {
  const plain = (text: string): string => text.toLowerCase().replace(/[^a-z0-9]/g, "");
  const names = Object.keys(CHAT_TEMPLATES) as ChatTemplateName[];
  return names.find((known) => plain(known) === plain(name)) ?? ALIASES[plain(name)] ?? null;
}

/** A string as Jinja's source has it. */
export function jinjaString(text: string): string {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'").replaceAll("\n", "\\n")}'`;
}
