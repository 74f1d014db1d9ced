import { type Example, type LocatedRow, readExample } from "../../data/index.ts";
import { alpacaPrompt } from "../../data/recipe-text.ts";
import { FormatError } from "../../formats/errors.ts";
import { generate, type SamplingOptions } from "../../generate/index.ts";
import type { CausalLM } from "../../models/model.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";

/** A question and the answer that is wanted. */
export interface Question {
  readonly prompt: readonly number[];
  /** For people: the last thing that was asked. */
  readonly asked: string;
  readonly expected: string;
}

export interface Answer {
  readonly asked: string;
  readonly expected: string;
  readonly answer: string;
  readonly correct: boolean;
}

export interface ExactMatchOptions {
  readonly batchSize: number;
  readonly sampling: SamplingOptions;
  /** What of an answer counts: group 1 of its last match, or the whole match; all of it when left out. */
  readonly pattern?: RegExp | undefined;
  readonly onBatch?: (done: number, rows: number) => void;
}

/** Has the model answer every row's question; an answer is right when it equals the row's, spaces around it aside. */
export async function exactMatch(
  lm: CausalLM,
  tokenizer: Tokenizer,
  rows: Iterable<LocatedRow>,
  { batchSize, sampling, pattern, onBatch }: ExactMatchOptions,
): Promise<Answer[]> {
  const questions = [...rows].map((row) => questionOf(row, tokenizer));
  const answers: Answer[] = [];
  for (let at = 0; at < questions.length; at += batchSize) {
    const batch = questions.slice(at, at + batchSize);
    const generated = await generate(
      lm,
      tokenizer,
      batch.map(({ prompt }) => prompt),
      sampling,
    );
    batch.forEach(({ asked, expected }, i) => {
      const answer = generated[i]!.text.trim();
      answers.push({ asked, expected, answer, correct: isMatch(answer, expected, pattern) });
    });
    onBatch?.(answers.length, questions.length);
  }
  return answers;
}

/** Whether an answer is the expected one; with a pattern, whether it holds the same in both. */
export function isMatch(answer: string, expected: string, pattern?: RegExp): boolean {
  if (!pattern) return answer.trim() === expected.trim();
  const wanted = extract(expected, pattern);
  return wanted !== null && extract(answer, pattern) === wanted;
}

function extract(text: string, pattern: RegExp): string | null {
  const last = [
    ...text.matchAll(new RegExp(pattern, pattern.flags.includes("g") ? pattern.flags : `${pattern.flags}g`)),
  ].at(-1);
  return last ? (last[1] ?? last[0]).trim() : null;
}

/** A row's question: everything before its last answer. Throws FormatError for a row that asks nothing. */
export function questionOf(located: LocatedRow, tokenizer: Tokenizer): Question {
  const example = readExample(located);
  const chat = conversationOf(example, tokenizer);
  if (chat) {
    const last = chat.messages.findLastIndex(({ role }) => role === "assistant");
    const before = chat.messages.slice(0, last);
    if (last > 0) {
      const { tools, variables } = chat;
      const prompt = tokenizer.applyChatTemplate(before, { addGenerationPrompt: true, tools, variables });
      return { prompt, asked: textOf(before.at(-1)!.content), expected: textOf(chat.messages[last]!.content) };
    }
  } else if (example.kind === "prompt-completion") {
    return { prompt: tokenizer.encode(example.prompt), asked: example.prompt, expected: example.completion };
  } else if (example.kind === "alpaca") {
    const asked = example.input === "" ? example.instruction : `${example.instruction}\n\n${example.input}`;
    return { prompt: tokenizer.encode(alpacaPrompt(example)), asked, expected: example.output };
  }
  throw new FormatError({
    file: located.where,
    field: "row",
    found: example.kind === "text" ? "plain text" : "no answer",
    expected: "a question and its answer, to compare answers: drop --exact-match, or use prompt and completion",
  });
}

function conversationOf(example: Example, tokenizer: Tokenizer) {
  if (example.kind === "messages") return example;
  if (example.kind === "chat-completion") return { ...example, messages: [...example.prompt, ...example.completion] };
  if (example.kind !== "alpaca" || tokenizer.chatTemplate === null) return null;
  const { instruction, input, output } = example;
  const messages = [
    { role: "user", content: input === "" ? instruction : `${instruction}\n\n${input}` },
    { role: "assistant", content: output },
  ];
  return { messages, tools: null, variables: {} };
}

/** A message's text; of one in parts, those that are text. */
function textOf(content: unknown): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((part) => (typeof part?.text === "string" ? part.text : "")).join("");
}
