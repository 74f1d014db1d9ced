import { FormatError, show } from "../formats/errors.ts";
import type { ChatMessage } from "../tokenizer/chat-template.ts";
import { nearest } from "../util/nearest.ts";
import type { LocatedRow, Row } from "./jsonl.ts";

/** A row in one of the shapes that fine-tuning data comes in, checked. */
export type Example =
  | { kind: "text"; text: string }
  | { kind: "prompt-completion"; prompt: string; completion: string }
  | { kind: "alpaca"; instruction: string; input: string; output: string }
  | ({ kind: "messages"; messages: ChatMessage[] } & ChatExtras)
  | ({ kind: "chat-completion"; prompt: ChatMessage[]; completion: ChatMessage[] } & ChatExtras);

/** What else a conversation's row may give its template. */
export interface ChatExtras {
  tools: Record<string, unknown>[] | null;
  variables: Record<string, unknown>;
}

/** The shapes, as shown in error messages. */
const SHAPES =
  '{"messages": [{"role", "content"}]}, {"conversations": [{"from", "value"}]}, {"prompt", "completion"}, ' +
  '{"instruction", "input", "output"} or {"text"}';
const FIELDS = ["messages", "conversations", "prompt", "completion", "instruction", "input", "output", "text"];

/** ShareGPT's names, and others in use, for the roles of chat templates. */
const ROLES: Readonly<Record<string, string>> = {
  human: "user",
  user: "user",
  gpt: "assistant",
  chatgpt: "assistant",
  bot: "assistant",
  assistant: "assistant",
  model: "assistant",
  system: "system",
  developer: "developer",
  tool: "tool",
  function: "tool",
  observation: "tool",
};

/**
 * Recognises a row by its fields: conversations first, then prompt and completion, Alpaca's, and plain text last (many
 * sets have their rendered text beside the parts). Throws `FormatError` naming the row, the field at fault and the
 * nearest right one.
 */
export function readExample(located: LocatedRow): Example {
  const { row } = located;
  if (has(row, "messages")) return { kind: "messages", messages: messages(located, "messages"), ...extras(located) };
  if (has(row, "conversations")) {
    return { kind: "messages", messages: messages(located, "conversations"), ...extras(located) };
  }
  if (has(row, "prompt") && has(row, "completion")) {
    if (!Array.isArray(row.prompt) && !Array.isArray(row.completion)) {
      return { kind: "prompt-completion", prompt: text(located, "prompt"), completion: text(located, "completion") };
    }
    const [prompt, completion] = [messages(located, "prompt"), messages(located, "completion")];
    return { kind: "chat-completion", prompt, completion, ...extras(located) };
  }
  if (has(row, "instruction") && has(row, "output")) {
    const input = has(row, "input") ? text(located, "input") : "";
    return { kind: "alpaca", instruction: text(located, "instruction"), input, output: text(located, "output") };
  }
  if (has(row, "text")) return { kind: "text", text: text(located, "text") };
  throw unknownShape(located);
}

/** A null field counts as left out: many writers fill absent columns so. */
export function has(row: Row, field: string): boolean {
  return Object.hasOwn(row, field) && row[field] !== null;
}

function unknownShape({ row, where }: LocatedRow): FormatError {
  const present = Object.keys(row);
  const hints: string[] = [];
  for (const name of present) {
    const close = FIELDS.includes(name) ? null : nearest(name, FIELDS);
    if (close !== null) hints.push(`is "${name}" meant to be "${close}"?`);
  }
  const isPreference = has(row, "chosen") && has(row, "rejected");
  const rename = isPreference ? "chosen and rejected are for DPOTrainer" : "rename the columns, with dataset.map()";
  const hint = hints.length === 0 ? rename : hints.join(" ");
  return new FormatError({
    file: where,
    field: "fields",
    found: show(present),
    expected: `${SHAPES}; ${hint}`,
  });
}

/** A field that must be a string. Throws `FormatError` naming row and field. */
export function text({ row, where }: LocatedRow, field: string): string {
  const value = row[field];
  if (typeof value === "string") return value;
  throw new FormatError({ file: where, field, found: show(value), expected: "a string" });
}

/**
 * A list of messages, either as role and content or as ShareGPT's from and value; `aliases` are further names of roles.
 * Throws `FormatError` naming row and field.
 */
export function messages(
  located: LocatedRow,
  field: string,
  aliases: Readonly<Record<string, string>> = {},
): ChatMessage[] {
  const { row, where } = located;
  const list = parsedList(row[field]);
  if (!Array.isArray(list) || list.length === 0) {
    const expected = 'a non-empty array of {"role", "content"}';
    throw new FormatError({ file: where, field, found: show(list), expected });
  }
  const roles = { ...ROLES, ...aliases };
  return list.map((item: unknown, i) => message(item, `${field}[${i}]`, where, roles));
}

/** CSV has no lists: there a conversation is JSON text. */
export function parsedList(value: unknown): unknown {
  if (typeof value !== "string" || !value.trimStart().startsWith("[")) return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

function message(value: unknown, field: string, where: string, roles: Readonly<Record<string, string>>): ChatMessage {
  const fail = (at: string, found: unknown, expected: string): never => {
    throw new FormatError({ file: where, field: at, found: show(found), expected });
  };
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return fail(field, value, 'an object with "role" and "content"');
  }
  const { from, value: said, ...rest } = value as Row;
  const role = rest.role ?? from;
  const content = rest.content ?? said;
  if (typeof role !== "string") {
    const keys = Object.keys(value);
    const close = keys.filter((key) => nearest(key, ["role", "from"]) !== null)[0];
    return fail(`${field}.role`, keys, `a role${close === undefined ? "" : ` (is "${close}" meant to be "role"?)`}`);
  }
  const known = roles[role];
  if (known === undefined || !Object.hasOwn(roles, role)) {
    const close = nearest(role, Object.keys(roles));
    const hint = close === null ? "" : ` (nearest: "${close}")`;
    return fail(`${field}.role`, role, `one of ${Object.keys(roles).join(", ")}${hint}`);
  }
  const isParts = Array.isArray(content) && content.every((part) => typeof part === "object" && part !== null);
  const callsTools = Array.isArray(rest.tool_calls) && rest.tool_calls.length > 0;
  if (typeof content !== "string" && !isParts && !(callsTools && (content === undefined || content === null))) {
    const hint = content === undefined ? contentHint(rest) : "";
    return fail(`${field}.content`, content, `a string (or a list of parts)${hint}`);
  }
  return { ...rest, role: known, content: (content ?? null) as ChatMessage["content"] & {} };
}

function contentHint(rest: Row): string {
  const close = Object.keys(rest).find((key) => key !== "role" && nearest(key, ["content", "value"]) !== null);
  return close === undefined ? "" : `; is "${close}" meant to be "content"?`;
}

/** `tools` may be JSON text, since columnar formats have no free-form objects. */
export function extras({ row, where }: LocatedRow): ChatExtras {
  let tools = row.tools ?? null;
  if (typeof tools === "string") {
    try {
      tools = JSON.parse(tools);
    } catch (cause) {
      throw new FormatError({ file: where, field: "tools", found: show(row.tools), expected: "JSON", cause });
    }
  }
  if (tools !== null && !(Array.isArray(tools) && tools.every((tool) => typeof tool === "object" && tool !== null))) {
    throw new FormatError({ file: where, field: "tools", found: show(tools), expected: "an array of JSON schemas" });
  }
  const variables = row.chat_template_kwargs ?? {};
  if (typeof variables !== "object" || Array.isArray(variables)) {
    throw new FormatError({
      file: where,
      field: "chat_template_kwargs",
      found: show(variables),
      expected: "an object",
    });
  }
  return { tools: tools as Record<string, unknown>[] | null, variables: variables as Record<string, unknown> };
}
