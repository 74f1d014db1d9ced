import type { ChatMessage } from "../tokenizer/chat-template.ts";
import type { ChatTemplateOptions, Tokenizer } from "../tokenizer/tokenizer.ts";
import type { PromptExample } from "./preference-rows.ts";

/**
 * How answers become tokens. "prefix" (TRL's DPO and KTO trainers): prompt and answer are tokenized as one; EOS is added
 * to text only. "merged" (its CPO and ORPO trainers): the template is applied first, at most the prompt's last token goes
 * to the answer, BOS and EOS are added wherever they are missing.
 */
export type AnswerTokens = "prefix" | "merged";

/** A prompt with each of its answers. */
export interface AnsweredPrompt {
  readonly sequences: readonly AnswerIds[];
  /** The prompt alone has other tokens than prompt and answer begin with. */
  readonly moved: boolean;
}

/** Ids of a prompt and one answer, of which the first `promptLength` are the prompt's. */
export interface AnswerIds {
  readonly ids: readonly number[];
  readonly promptLength: number;
}

interface Chat {
  readonly prompt: readonly ChatMessage[];
  readonly answers: readonly (readonly ChatMessage[])[];
}

/** Ids of a prompt and its answers, all strings. */
export function tokenizeTexts(
  tokenizer: Tokenizer,
  prompt: string,
  answers: readonly string[],
  how: AnswerTokens,
): AnsweredPrompt {
  if (how === "merged") return mergedTexts(tokenizer, prompt, answers);
  const eos = tokenizer.eosToken ?? "";
  const ended = answers.map((answer) => (answer.endsWith(eos) ? answer : answer + eos));
  return commonPrompt(
    tokenizer.encode(prompt),
    ended.map((answer) => tokenizer.encode(prompt + answer)),
  );
}

/** Ids of a prompt and its answers, all messages, through the chat template. Throws `ChatTemplateError`. */
export function tokenizeChats(
  tokenizer: Tokenizer,
  { prompt, answers }: Chat,
  template: ChatTemplateOptions,
  how: AnswerTokens,
): AnsweredPrompt {
  const text = (messages: readonly ChatMessage[], addGenerationPrompt: boolean): string =>
    tokenizer.applyChatTemplate(messages, { ...template, addGenerationPrompt, tokenize: false });
  const whole = answers.map((answer) => text([...prompt, ...answer], false));
  if (how === "prefix") {
    const encode = (rendered: string): number[] => tokenizer.encode(rendered, { addSpecialTokens: false });
    return commonPrompt(encode(text(prompt, true)), whole.map(encode));
  }
  const goesOn = prompt.at(-1)!.role === "assistant";
  const opening = goesOn ? continued(text(prompt, false), prompt.at(-1)!) : text(prompt, true);
  const length = Math.min(...whole.map((rendered) => commonLength(opening, rendered)));
  const shared = opening.slice(0, length);
  return mergedTexts(
    tokenizer,
    shared,
    whole.map((rendered) => rendered.slice(length)),
  );
}

/** Ids of a prompt that answers are to be generated for: a conversation ends with what opens the assistant's turn. */
export function tokenizePrompt(tokenizer: Tokenizer, example: PromptExample, template: ChatTemplateOptions): number[] {
  if (example.kind === "text") return tokenizer.encode(example.prompt);
  return tokenizer.applyChatTemplate(example.prompt, { ...template, addGenerationPrompt: true });
}

/** The answers start where prompt, and prompt with answer, part: where the first of them does. */
function commonPrompt(prompt: readonly number[], whole: readonly (readonly number[])[]): AnsweredPrompt {
  const promptLength = Math.min(...whole.map((ids) => commonLength(prompt, ids)));
  return { sequences: whole.map((ids) => ({ ids, promptLength })), moved: promptLength < prompt.length };
}

/** Each answer starts where its prompt ends, or a token before. */
function mergedTexts(tokenizer: Tokenizer, prompt: string, answers: readonly string[]): AnsweredPrompt {
  const plain = { addSpecialTokens: false };
  const alone = tokenizer.encode(prompt, plain);
  const { bosTokenId: bos, eosTokenId: eos } = tokenizer;
  let moved = false;
  const sequences = answers.map((answer) => {
    const ids = tokenizer.encode(prompt + answer, plain);
    const fits = commonLength(alone, ids) === alone.length;
    moved ||= !fits;
    const promptLength = Math.min(ids.length, Math.max(0, fits ? alone.length : alone.length - 1));
    const ended = eos === null || (ids.length > promptLength && ids.at(-1) === eos) ? ids : [...ids, eos];
    if (bos === null || (promptLength > 0 && ids[0] === bos)) return { ids: ended, promptLength };
    return { ids: [bos, ...ended], promptLength: promptLength + 1 };
  });
  return { sequences, moved };
}

/** A rendering up to the end of its last message's content, for an answer to go on from. */
function continued(rendered: string, { content }: ChatMessage): string {
  if (typeof content !== "string") return rendered;
  const end = content.trim();
  const at = rendered.lastIndexOf(end);
  return at === -1 ? rendered : rendered.slice(0, at + end.length);
}

function commonLength<T extends ArrayLike<unknown>>(a: T, b: T): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
