import { isDeepStrictEqual } from "node:util";
import { FormatError, show } from "../formats/errors.ts";
import type { ChatMessage } from "../tokenizer/chat-template.ts";
import { nearest } from "../util/nearest.ts";
import type { LocatedRow, Row } from "./jsonl.ts";
import { type ChatExtras, extras, has, messages, parsedList, text } from "./recipe-kinds.ts";

/** A prompt with a better and a worse answer. */
export type PreferenceExample =
  | { kind: "text"; prompt: string; chosen: string; rejected: string }
  | ({ kind: "messages"; prompt: ChatMessage[]; chosen: ChatMessage[]; rejected: ChatMessage[] } & ChatExtras);

/** A prompt with one answer, which is wanted (label true) or not. */
export type UnpairedExample = { label: boolean } & (
  | { kind: "text"; prompt: string; completion: string }
  | ({ kind: "messages"; prompt: ChatMessage[]; completion: ChatMessage[] } & ChatExtras)
);

/** A prompt alone, for what generates the answers itself. */
export type PromptExample =
  | { kind: "text"; prompt: string }
  | ({ kind: "messages"; prompt: ChatMessage[] } & ChatExtras);

const PAIR_SHAPES =
  '{"prompt", "chosen", "rejected"} or {"chosen", "rejected"}, all strings or all lists of {"role", "content"}';
const UNPAIRED_SHAPES = `{"prompt", "completion", "label": true or false}, or ${PAIR_SHAPES}`;

/**
 * Reads a preference row. Without a prompt of the same kind as the answers, their common beginning is it (TRL's
 * extract_prompt). Throws `FormatError` naming the row, the field at fault and the nearest right one.
 */
export function readPreference(located: LocatedRow): PreferenceExample {
  const { row } = located;
  for (const field of ["chosen", "rejected"]) {
    if (!has(row, field)) throw missing(located, field, ["prompt", "chosen", "rejected"], PAIR_SHAPES);
  }
  if (!isList(row.chosen) && !isList(row.rejected)) {
    const [chosen, rejected] = [text(located, "chosen"), text(located, "rejected")];
    if (has(row, "prompt")) return { kind: "text", prompt: text(located, "prompt"), chosen, rejected };
    return { kind: "text", ...extractTextPrompt(chosen, rejected) };
  }
  const [chosen, rejected] = [messages(located, "chosen"), messages(located, "rejected")];
  // Some sets (UltraFeedback) have a prompt as text beside conversations that hold it.
  if (isList(row.prompt)) {
    return { kind: "messages", prompt: messages(located, "prompt"), chosen, rejected, ...extras(located) };
  }
  return { kind: "messages", ...extractPrompt(located, chosen, rejected), ...extras(located) };
}

/** Reads a row of an answer with its label. Throws `FormatError` as `readPreference` does. */
export function readUnpaired(located: LocatedRow): UnpairedExample {
  const { row } = located;
  for (const field of ["prompt", "completion", "label"]) {
    if (!has(row, field)) throw missing(located, field, ["prompt", "completion", "label"], UNPAIRED_SHAPES);
  }
  const label = readLabel(located);
  if (!isList(row.prompt) && !isList(row.completion)) {
    return { kind: "text", label, prompt: text(located, "prompt"), completion: text(located, "completion") };
  }
  const [prompt, completion] = [messages(located, "prompt"), messages(located, "completion")];
  return { kind: "messages", label, prompt, completion, ...extras(located) };
}

/** Reads a row's prompt; what else the row has is not looked at. Throws `FormatError` as `readPreference` does. */
export function readPrompt(located: LocatedRow): PromptExample {
  const { row } = located;
  if (!has(row, "prompt")) {
    throw missing(located, "prompt", ["prompt"], '{"prompt"}, a string or a list of {"role", "content"}');
  }
  if (!isList(row.prompt)) return { kind: "text", prompt: text(located, "prompt") };
  return { kind: "messages", prompt: messages(located, "prompt"), ...extras(located) };
}

/** Whether a row holds a pair of answers, so that it can be taken apart where single ones are wanted. */
export const isPreferenceRow = (row: Row): boolean => has(row, "chosen") && has(row, "rejected");

/** The two halves of a pair, as rows of single answers. */
export function unpair(example: PreferenceExample): [UnpairedExample, UnpairedExample] {
  if (example.kind === "text") {
    const { chosen, rejected, ...rest } = example;
    return [
      { ...rest, completion: chosen, label: true },
      { ...rest, completion: rejected, label: false },
    ];
  }
  const { chosen, rejected, ...rest } = example;
  return [
    { ...rest, completion: chosen, label: true },
    { ...rest, completion: rejected, label: false },
  ];
}

/** Messages, in CSV as JSON text; a text may begin with a bracket too. */
function isList(value: unknown): boolean {
  const list = parsedList(value);
  return Array.isArray(list) && (list !== value ? list.every((item) => typeof item === "object") : true);
}

/** The common beginning of two texts; a space at its end goes to the answers, as tokenizers have it. */
function extractTextPrompt(chosen: string, rejected: string): { prompt: string; chosen: string; rejected: string } {
  // Something is left as the answer even where one text is the beginning of the other.
  const last = Math.min(chosen.length, rejected.length) - 1;
  let length = 0;
  while (length < last && chosen[length] === rejected[length]) length++;
  const parted = chosen[length] !== rejected[length];
  // Not between the two halves of a character.
  if (length > 0 && /[\ud800-\udbff]/.test(chosen[length - 1]!)) length--;
  if (length > 0 && parted && chosen[length - 1] === " ") length--;
  return { prompt: chosen.slice(0, length), chosen: chosen.slice(length), rejected: rejected.slice(length) };
}

function extractPrompt(
  { where }: LocatedRow,
  chosen: ChatMessage[],
  rejected: ChatMessage[],
): { prompt: ChatMessage[]; chosen: ChatMessage[]; rejected: ChatMessage[] } {
  const shorter = Math.min(chosen.length, rejected.length);
  let length = 0;
  // At least one message is left as the answer.
  while (length < shorter - 1 && isDeepStrictEqual(chosen[length], rejected[length])) length++;
  if (length === 0) {
    const found = "conversations that begin differently";
    const expected = 'the same first messages in chosen and rejected, or a "prompt" of messages';
    throw new FormatError({ file: where, field: "chosen, rejected", found, expected });
  }
  return { prompt: chosen.slice(0, length), chosen: chosen.slice(length), rejected: rejected.slice(length) };
}

/** CSV has no booleans, and some sets write 0 and 1. */
function readLabel({ row, where }: LocatedRow): boolean {
  const label = row.label;
  if (label === true || label === 1 || label === "true" || label === "True" || label === "1") return true;
  if (label === false || label === 0 || label === "false" || label === "False" || label === "0") return false;
  throw new FormatError({ file: where, field: "label", found: show(label), expected: "true or false" });
}

function missing({ row, where }: LocatedRow, field: string, fields: readonly string[], shapes: string): FormatError {
  const present = Object.keys(row);
  const close = present.find((name) => !fields.includes(name) && nearest(name, [field]) !== null);
  const hint = close === undefined ? "rename the columns, with dataset.map()" : `is "${close}" meant to be "${field}"?`;
  return new FormatError({ file: where, field, found: `only ${show(present)}`, expected: `${shapes}; ${hint}` });
}
