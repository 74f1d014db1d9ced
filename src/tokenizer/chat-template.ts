import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { reason } from "../formats/errors.ts";
import { honourStripArguments, STRIP_GLOBALS } from "./jinja-strip.ts";
import { strftimeNow } from "./strftime.ts";

/** One turn of a conversation, as Hugging Face's chat templates take it; templates may read further keys. */
export interface ChatMessage {
  role: string;
  content?: string | null | readonly Record<string, unknown>[];
  [key: string]: unknown;
}

/** A chat template that does not parse, fails, or refuses its input with `raise_exception`. */
export class ChatTemplateError extends Error {
  override readonly name = "ChatTemplateError";
}

/** A rendering, and the [start, end) spans of what its `{% generation %}` blocks wrote (null without such blocks). */
export interface Rendering {
  text: string;
  spans: [number, number][] | null;
}

const MAX_RANGE = 1_000_000;

/**
 * A Jinja chat template, run by @huggingface/jinja in the environment Hugging Face transformers gives: trimmed blocks,
 * `raise_exception`, `strftime_now` (English, local time), `range`, `namespace`, `tojson` without HTML escapes.
 * Known to differ from Python's Jinja: booleans print as "true" and "false", none prints as nothing.
 */
export class ChatTemplate {
  readonly source: string;
  /** The template marks what the model is to generate itself. */
  readonly hasGenerationBlocks: boolean;
  readonly #program: unknown;

  /** Throws `ChatTemplateError` if `source` does not parse. */
  constructor(source: string) {
    this.source = source;
    const blocks = generationAsCalls(source);
    this.hasGenerationBlocks = blocks !== null;
    try {
      this.#program = new Template(blocks ?? source).parsed;
      honourStripArguments(this.#program);
    } catch (cause) {
      throw new ChatTemplateError(`the chat template does not parse: ${reason(cause)}`, { cause });
    }
  }

  /** Throws `ChatTemplateError` with the template's own message if it refuses the conversation. */
  render(messages: readonly ChatMessage[], variables: Record<string, unknown>): Rendering {
    const globals: Record<string, unknown> = {
      true: true,
      false: false,
      none: null,
      True: true,
      False: false,
      None: null,
      range,
      raise_exception: (message: unknown) => {
        throw new ChatTemplateError(String(message));
      },
      strftime_now: (format: unknown) => strftimeNow(String(format)),
      tools: null,
      documents: null,
      ...STRIP_GLOBALS,
      ...variables,
      messages: messages.map(plainMessage),
    };
    const [open, close] = this.hasGenerationBlocks ? unusedMarkers(globals) : ["", ""];
    if (this.hasGenerationBlocks) Object.assign(globals, { [OPEN]: open, [CLOSE]: close });
    const text = this.#run(globals);
    refusePrintedParts(messages, text);
    return this.hasGenerationBlocks ? cutMarkers(text, open, close) : { text, spans: null };
  }

  #run(globals: Record<string, unknown>): string {
    try {
      const environment = new Environment();
      for (const [name, value] of Object.entries(globals)) {
        if (name !== "namespace") environment.set(name, value);
      }
      return (new Interpreter(environment).run(this.#program as never) as { value: string }).value;
    } catch (cause) {
      if (cause instanceof ChatTemplateError) throw cause;
      throw new ChatTemplateError(`the chat template failed: ${reason(cause)}`, { cause });
    }
  }
}

const OPEN = "_generation_open";
const CLOSE = "_generation_close";

/**
 * transformers' `{% generation %}…{% endgeneration %}` is a call block of a macro that notes where its output lies; so
 * is ours, which keeps Jinja's whitespace rules. The macro stands on a line of its own, whose newline Jinja trims.
 * Null without such blocks.
 */
function generationAsCalls(source: string): string | null {
  let found = false;
  const calls = source.replace(/\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}/g, (_, left, end, right) => {
    found = true;
    return `{%${left} ${end === undefined ? "call _generation()" : "endcall"} ${right}%}`;
  });
  if (!found) return null;
  return `{% macro _generation() %}{{ ${OPEN} }}{{ caller() }}{{ ${CLOSE} }}{% endmacro %}\n${calls}`;
}

/** Two characters that nothing in the input holds: of Unicode's 32 noncharacters, which no text should hold. */
function unusedMarkers(globals: Record<string, unknown>): [string, string] {
  const input = JSON.stringify(globals);
  const free: string[] = [];
  for (let code = 0xfdd0; code <= 0xfdef && free.length < 2; code++) {
    const char = String.fromCharCode(code);
    if (!input.includes(char)) free.push(char);
  }
  if (free.length < 2) throw new ChatTemplateError("the conversation holds every one of U+FDD0 to U+FDEF");
  return [free[0]!, free[1]!];
}

function cutMarkers(marked: string, open: string, close: string): Rendering {
  const spans: [number, number][] = [];
  let text = "";
  let start = 0;
  for (const part of marked.split(new RegExp(`([${open}${close}])`))) {
    if (part === open) start = text.length;
    else if (part === close) spans.push([start, text.length]);
    else text += part;
  }
  return { text, spans };
}

/** As transformers: keys without a value are left out, and reasoning goes by the name templates read. */
function plainMessage(message: ChatMessage): Record<string, unknown> {
  const plain = Object.fromEntries(
    Object.entries(message).filter(([, value]) => value !== null && value !== undefined),
  );
  const reasoning = plain.reasoning_content ?? plain.thinking ?? plain.reasoning;
  return reasoning === undefined ? plain : { thinking: reasoning, ...plain, reasoning_content: reasoning };
}

/**
 * Python refuses to add a list to a string; the library prints the list, which would train on JSON. A tool's result may
 * be meant to be printed so.
 */
function refusePrintedParts(messages: readonly ChatMessage[], text: string): void {
  messages.forEach(({ role, content }, index) => {
    if (!Array.isArray(content) || role === "tool") return;
    for (const { type } of content as Record<string, unknown>[]) {
      if (typeof type === "string" && text.includes(`{"type": ${JSON.stringify(type)}`)) {
        throw new ChatTemplateError(
          `message ${index} has a list of parts as its content, and this chat template takes text only; give a string`,
        );
      }
    }
  });
}

/** Python's range(). */
function range(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  const count = Math.ceil((stop - start) / step);
  if (!(count <= MAX_RANGE)) throw new ChatTemplateError(`range() of ${count} numbers; at most ${MAX_RANGE}`);
  return Array.from({ length: Math.max(0, count) }, (_, i) => start + i * step);
}
