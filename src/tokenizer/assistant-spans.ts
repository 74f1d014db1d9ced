import type { ChatMessage } from "./chat-template.ts";
import { ChatTemplateError } from "./chat-template.ts";

type Render = (messages: readonly ChatMessage[], addGenerationPrompt: boolean) => string;

/** Stands in for a message's content. Noncharacters: in no real text, and no template trims them. */
const SENTINEL = "\ufddc\ufddd";

/**
 * The [start, end) spans in `full`, the rendering of all of `messages`, of what the model is to generate: each assistant
 * message from the end of its generation prompt to the end of its turn, end-of-turn token included.
 *
 * Found by rendering, not by searching: the conversation up to a message, with and without the message, must be how the
 * whole begins. Templates that write old turns otherwise than the last one (Qwen3 leaves their reasoning out) fail that;
 * then the whole is rendered once more with a sentinel for the content (or, without content, for a string of its tool
 * calls), which shows what stands around it.
 * `isTurnEnd` tells whether a text ends in a special token: whitespace after one is not generated, and left out.
 * Throws `ChatTemplateError` where neither gives a certain answer.
 */
export function assistantSpans(
  render: Render,
  messages: readonly ChatMessage[],
  full: string,
  isTurnEnd: (text: string) => boolean,
): [number, number][] {
  const spans: [number, number][] = [];
  messages.forEach((message, index) => {
    if (message.role !== "assistant") return;
    const around = lazily(() => renderAround(render, messages, index, full));
    const start = turnStart(render, messages, index, full, around);
    const end = turnEnd(render, messages, index, full, around);
    if (start === null || end === null || start > end || start < (spans.at(-1)?.[1] ?? 0)) {
      throw new ChatTemplateError(
        `cannot tell which tokens of message ${index} the assistant generates: this chat template renders it differently ` +
          "on its own. Put {% generation %} and {% endgeneration %} around it in the template, or train on all tokens",
      );
    }
    const generated = full.slice(start, end);
    const trimmed = generated.trimEnd();
    spans.push([start, isTurnEnd(trimmed) ? start + trimmed.length : end]);
  });
  return spans;
}

function turnStart(
  render: Render,
  messages: readonly ChatMessage[],
  index: number,
  full: string,
  around: () => Around | null,
): number | null {
  const prompt = attempt(() => render(messages.slice(0, index), true));
  if (prompt !== null && full.startsWith(prompt)) return prompt.length;
  const whole = around();
  if (whole === null) return null;
  // No prompt can be had for, say, a first message: then what is generated is the content.
  if (prompt === null) return full.startsWith(whole.before) ? whole.before.length : null;
  // Some prompts open more than a finished turn shows ("<think>"): the turn starts where they part. Compared with the
  // sentinel's rendering, so that content that happens to begin alike is not taken for the prompt.
  const start = commonPrefix(prompt, whole.before);
  const history = attempt(() => render(messages.slice(0, index), false));
  const agrees = history !== null && history.length <= start && full.startsWith(prompt.slice(0, start));
  return agrees ? start : null;
}

function turnEnd(
  render: Render,
  messages: readonly ChatMessage[],
  index: number,
  full: string,
  around: () => Around | null,
): number | null {
  const upTo = messages.slice(0, index + 1);
  const finished = attempt(() => render(upTo, false));
  if (finished !== null && full.startsWith(finished)) return finished.length;
  const whole = around();
  if (whole === null) return null;
  const alone = attempt(() => split(render(withSentinel(upTo, index, whole.path), false)));
  if (alone === null) return null;
  return full.length - whole.after.length + commonPrefix(alone.after, whole.after);
}

/** What a rendering has before and after one string of a message, and where in the message that string is. */
interface Around {
  before: string;
  after: string;
  path: readonly string[];
}

/** Strings of a message tried as the sentinel's place: a template may not print its tool calls' types, or ids. */
const MAX_TRIES = 32;

/** Renders the whole with a sentinel; null unless what follows it is as in `full`. */
function renderAround(render: Render, messages: readonly ChatMessage[], index: number, full: string): Around | null {
  const { role, content, ...rest } = messages[index]!;
  const paths = typeof content === "string" && content !== "" ? [["content"]] : stringPaths(rest).reverse();
  for (const path of paths.slice(0, MAX_TRIES)) {
    const around = attempt(() => split(render(withSentinel(messages, index, path), false)));
    if (around !== null && full.endsWith(around.after)) return { ...around, path };
  }
  return null;
}

/** Paths to the non-empty strings in a value, in order. */
function stringPaths(value: unknown): string[][] {
  if (typeof value === "string") return value === "" ? [] : [[]];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, child]) => stringPaths(child).map((path) => [key, ...path]));
}

function withSentinel(messages: readonly ChatMessage[], index: number, path: readonly string[]): ChatMessage[] {
  const replace = (value: unknown, [key, ...rest]: readonly string[]): unknown => {
    if (key === undefined) return SENTINEL;
    if (Array.isArray(value)) return value.map((item, i) => (String(i) === key ? replace(item, rest) : item));
    const record = value as Record<string, unknown>;
    return { ...record, [key]: replace(record[key], rest) };
  };
  return messages.map((message, i) => (i === index ? (replace(message, path) as ChatMessage) : message));
}

function split(rendering: string): { before: string; after: string } | null {
  const parts = rendering.split(SENTINEL);
  return parts.length === 2 ? { before: parts[0]!, after: parts[1]! } : null;
}

function commonPrefix(a: string, b: string): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}

/** Templates may refuse part of a conversation ("roles must alternate"); that only rules this way out. */
function attempt<T>(render: () => T): T | null {
  try {
    return render();
  } catch (error) {
    if (error instanceof ChatTemplateError) return null;
    throw error;
  }
}

function lazily<T>(compute: () => T): () => T {
  let value: { result: T } | undefined;
  return () => {
    value ??= { result: compute() };
    return value.result;
  };
}
