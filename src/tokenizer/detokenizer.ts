import { TextDecoder } from "node:util";
import { FormatError, show } from "../formats/errors.ts";
import { tokenBytes } from "./byte-level.ts";
import { compilePattern } from "./library.ts";
import { type Component, sequenceOf, unsupported } from "./tokenizer-json.ts";

/** Decodes ids as they come. The texts it returns, joined, are the decoding of all ids; none ends in half a character. */
export interface StreamDecoder {
  /** The text that became certain with this id; often "". */
  push(id: number): string;
  /** What was held back: "�" for bytes that never became a character. The decoder then starts afresh. */
  flush(): string;
}

/** Turns the strings of the tokens into strings of text; run one after the other, as tokenizers' `decode_chain`. */
type Stage = (tokens: string[]) => string[];

const TYPES = ["ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"];
const BYTE_TOKEN = /^<0x[0-9A-Fa-f]{2}>$/;

/**
 * The decoder of a `tokenizer.json`. Ours rather than @huggingface/tokenizers' 0.2.0, whose ByteFallback decodes broken
 * UTF-8 and a byte-order mark differently, and which cannot stream.
 */
export class Detokenizer {
  readonly #component: Component | null;
  readonly #token: (id: number) => string | undefined;
  readonly #stages: Stage[];
  readonly #byteLevel: boolean;
  readonly #bytes = new Map<number, Uint8Array>();

  /** `token` gives the string of an id. An id without one decodes to nothing. */
  constructor(component: Component | null, token: (id: number) => string | undefined) {
    this.#component = component;
    this.#token = token;
    this.#byteLevel = component?.type === "ByteLevel";
    this.#stages = component === null || this.#byteLevel ? [] : makeStages(component);
  }

  decode(ids: Iterable<number>): string {
    if (this.#byteLevel) return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.#joinBytes(ids));
    let tokens: string[] = [];
    for (const id of ids) {
      const token = this.#token(id);
      if (token !== undefined) tokens.push(token);
    }
    // Without a decoder, Hugging Face tokenizers put spaces between the tokens.
    if (this.#component === null) return tokens.join(" ");
    for (const stage of this.#stages) tokens = stage(tokens);
    return tokens.join("");
  }

  /**
   * A streaming decoder. Equal to `decode` of all the ids, but for one case: a run of byte tokens ("<0xE2>") that is
   * not all valid UTF-8 decodes to "�" for every byte of the run there, and only for the broken bytes here, since the
   * valid characters before them have been given out already.
   */
  stream(): StreamDecoder {
    const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    if (this.#byteLevel) {
      return {
        push: (id) => utf8.decode(this.#bytesOf(id), { stream: true }),
        flush: () => utf8.decode(),
      };
    }
    const piece = makePieceStream(this.#component, utf8);
    return {
      push: (id) => {
        const token = this.#token(id);
        return token === undefined ? "" : piece.push(token);
      },
      flush: () => piece.flush(),
    };
  }

  #joinBytes(ids: Iterable<number>): Uint8Array {
    const parts: Uint8Array[] = [];
    for (const id of ids) parts.push(this.#bytesOf(id));
    return Buffer.concat(parts);
  }

  #bytesOf(id: number): Uint8Array {
    let bytes = this.#bytes.get(id);
    if (bytes === undefined) {
      bytes = tokenBytes(this.#token(id) ?? "");
      this.#bytes.set(id, bytes);
    }
    return bytes;
  }
}

function makeStages(component: Component): Stage[] {
  switch (component.type) {
    case "Sequence":
      return sequenceOf(component, "decoders").flatMap(makeStages);
    case "ByteLevel":
      return [
        (tokens) => [new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.concat(tokens.map(tokenBytes)))],
      ];
    case "Replace": {
      const replace = replacer(component);
      return [(tokens) => tokens.map(replace)];
    }
    case "ByteFallback":
      return [byteFallback];
    case "Fuse":
      return [(tokens) => [tokens.join("")]];
    case "Strip": {
      const { content, start, stop } = stripOptions(component);
      return [(tokens) => tokens.map((token) => strip(token, content, start, stop))];
    }
    case "Metaspace": {
      const { mark, prepends } = metaspaceOptions(component);
      return [(tokens) => tokens.map((token, i) => token.replaceAll(mark, i === 0 && prepends ? "" : " "))];
    }
    default:
      throw unsupported("decoder", component.type, TYPES);
  }
}

/** Runs of byte tokens as the text they spell; a run that is not valid UTF-8 gives one "�" a byte. */
function byteFallback(tokens: string[]): string[] {
  const result: string[] = [];
  for (let i = 0; i < tokens.length; ) {
    if (!BYTE_TOKEN.test(tokens[i]!)) {
      result.push(tokens[i++]!);
      continue;
    }
    const run: number[] = [];
    while (i < tokens.length && BYTE_TOKEN.test(tokens[i]!)) run.push(byteOf(tokens[i++]!));
    try {
      result.push(new TextDecoder("utf-8", { ignoreBOM: true, fatal: true }).decode(Uint8Array.from(run)));
    } catch {
      result.push("\ufffd".repeat(run.length));
    }
  }
  return result;
}

/** The streaming form of the stages: tokens in, text out, with what must be remembered between them. */
function makePieceStream(
  component: Component | null,
  utf8: TextDecoder,
): { push(token: string): string; flush(): string } {
  const components =
    component === null ? [] : component.type === "Sequence" ? sequenceOf(component, "decoders") : [component];
  const types = components.map(({ type }) => type);
  const fused = types.indexOf("Fuse");
  const replaces = components.filter(({ type }) => type === "Replace").map(replacer);
  const metaspace = components.find(({ type }) => type === "Metaspace");
  const strips = components.filter(({ type }) => type === "Strip").map(stripOptions);
  const streamable =
    types.every((type) => type !== "ByteLevel" && type !== "Sequence") &&
    strips.every(({ stop }) => stop === 0) &&
    (strips.length === 0 || (strips.length === 1 && fused !== -1 && types.indexOf("Strip") > fused));
  if (!streamable) {
    throw new FormatError({
      field: "decoder",
      found: types.join(", "),
      expected: "ByteLevel, or steps that can run a token at a time, to stream",
    });
  }
  const bytes = types.includes("ByteFallback");
  const options = metaspace === undefined ? undefined : metaspaceOptions(metaspace);
  let first = true;
  let toStrip = strips[0]?.start ?? 0;
  const finish = (text: string): string => {
    let result = text;
    while (toStrip > 0 && result !== "") {
      if (!result.startsWith(strips[0]!.content)) toStrip = 0;
      else {
        result = result.slice(strips[0]!.content.length);
        toStrip--;
      }
    }
    return result;
  };
  return {
    push(token) {
      if (bytes && BYTE_TOKEN.test(token)) {
        first = false;
        return finish(utf8.decode(Uint8Array.of(byteOf(token)), { stream: true }));
      }
      let text = token;
      for (const replace of replaces) text = replace(text);
      if (options !== undefined) text = text.replaceAll(options.mark, first && options.prepends ? "" : " ");
      if (component === null && !first) text = ` ${text}`;
      first = false;
      return finish(utf8.decode() + text);
    },
    flush() {
      const rest = finish(utf8.decode());
      first = true;
      toStrip = strips[0]?.start ?? 0;
      return rest;
    },
  };
}

function byteOf(token: string): number {
  return Number.parseInt(token.slice(3, 5), 16);
}

function replacer(component: Component): (text: string) => string {
  const content = typeof component.content === "string" ? component.content : "";
  const pattern = compilePattern(component, "decoder");
  return (text) => text.replaceAll(pattern, () => content);
}

function stripOptions(component: Component): { content: string; start: number; stop: number } {
  const { content, start, stop } = component;
  if (typeof content !== "string" || [...content].length !== 1) {
    throw new FormatError({ field: "decoder Strip.content", found: show(content), expected: "one character" });
  }
  return { content, start: typeof start === "number" ? start : 0, stop: typeof stop === "number" ? stop : 0 };
}

function strip(text: string, content: string, start: number, stop: number): string {
  let result = text;
  for (let i = 0; i < start && result.startsWith(content); i++) result = result.slice(content.length);
  for (let i = 0; i < stop && result.endsWith(content); i++) result = result.slice(0, -content.length);
  return result;
}

function metaspaceOptions(component: Component): { mark: string; prepends: boolean } {
  const mark = typeof component.replacement === "string" ? component.replacement : "▁";
  const scheme = component.prepend_scheme ?? (component.add_prefix_space === false ? "never" : "always");
  return { mark, prepends: scheme !== "never" };
}
