import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { atomicWriteFile } from "../formats/atomic.ts";
import { FormatError } from "../formats/errors.ts";
import { nearest } from "../util/nearest.ts";
import { camelCase, OptionError } from "../util/options.ts";
import { assistantSpans } from "./assistant-spans.ts";
import { type ChatMessage, ChatTemplate, ChatTemplateError, type Rendering } from "./chat-template.ts";
import { Detokenizer, type StreamDecoder } from "./detokenizer.ts";
import { type EncodingWithOffsets, Pipeline } from "./pipeline.ts";
import { readPostProcessor, type SpecialTokens } from "./post-processor.ts";
import {
  readTokenizerFiles,
  readTokenizerFolder,
  type SpecialTokenNames,
  type TokenizerSource,
} from "./tokenizer-files.ts";

export interface EncodeOptions {
  /** Put the model's special tokens (BOS …) around the text. Default true, as Hugging Face's. */
  addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leave special tokens out. Default false, as Hugging Face's. */
  skipSpecialTokens?: boolean;
}

export interface ChatTemplateOptions {
  /** End with what opens an assistant's turn. Default false. */
  addGenerationPrompt?: boolean;
  /** JSON schemas of the functions the model may call. */
  tools?: readonly Record<string, unknown>[] | null;
  documents?: readonly Record<string, unknown>[] | null;
  /** A template to use instead: the name of one of the tokenizer's, or Jinja source. */
  chatTemplate?: string;
  /** Further variables of the template, such as `enable_thinking`. */
  variables?: Record<string, unknown>;
}

/** A conversation's ids, and the [start, end) ranges of them that the assistant generates, one a turn, in order. */
export interface ChatEncoding {
  ids: number[];
  assistantTurns: [number, number][];
}

/**
 * A Hugging Face tokenizer: text to token ids and back, and conversations to text. Ids equal those of Hugging Face
 * tokenizers 0.23 for BPE models (byte-level and SentencePiece style).
 *
 *     const tokenizer = await Tokenizer.fromFolder("models/SmolLM2-135M-Instruct");
 *     const ids = tokenizer.encode("Hello, world!");
 *     const text = tokenizer.decode(ids, { skipSpecialTokens: true });
 */
export class Tokenizer {
  /** Special tokens by role, as in `tokenizer_config.json`: `bos_token`, `eos_token`, … */
  readonly specialTokens: Readonly<SpecialTokenNames>;
  /** Ids left out by `skipSpecialTokens`. */
  readonly specialIds: ReadonlySet<number>;
  /** One more than the largest id: the rows an embedding needs. */
  readonly vocabSize: number;
  /** Every id that ends a generation: EOS, and those of generation_config.json. */
  readonly eosTokenIds: readonly number[];
  readonly #files: Map<string, Uint8Array>;
  readonly #pipeline: Pipeline;
  readonly #detokenizer: Detokenizer;
  readonly #around: SpecialTokens;
  readonly #tokens: string[] = [];
  readonly #ids: Map<string, number>;
  readonly #templates: Record<string, string>;
  readonly #compiled = new Map<string, ChatTemplate>();
  #templateChanged = false;

  /** Use `fromFolder` or `fromFiles`. */
  constructor(source: TokenizerSource) {
    this.#files = source.files;
    this.specialTokens = source.specialTokens;
    this.#templates = { ...source.chatTemplates };
    this.#pipeline = new Pipeline(source.json, source.addedTokens);
    this.#around = readPostProcessor(source.json.post_processor);
    this.#ids = new Map(this.#pipeline.model.vocab);
    for (const [token, id] of this.#ids) this.#tokens[id] = token;
    const special = new Set<number>();
    const named = new Set(Object.values(source.specialTokens));
    for (const { id, content, special: isSpecial } of source.addedTokens) {
      this.#tokens[id] = content;
      this.#ids.set(content, id);
      if (isSpecial || named.has(content)) special.add(id);
    }
    this.specialIds = special;
    this.vocabSize = this.#tokens.length;
    const { addedText } = this.#pipeline;
    this.#detokenizer = new Detokenizer(source.json.decoder, (id) => addedText.get(id) ?? this.#tokens[id]);
    const eos = this.eosTokenId;
    this.eosTokenIds = [...new Set([...(eos === null ? [] : [eos]), ...source.generationEosIds])];
  }

  /**
   * Reads tokenizer.json, and where there are any tokenizer_config.json, special_tokens_map.json, chat_template.jinja
   * and the end-of-sequence ids of generation_config.json. Throws `FormatError` naming the file and field at fault.
   */
  static async fromFolder(folder: string): Promise<Tokenizer> {
    return new Tokenizer(await readTokenizerFolder(folder));
  }

  /** As `fromFolder`, from the files' contents by name. */
  static fromFiles(files: Record<string, Uint8Array | string>): Tokenizer {
    const entries = Object.entries(files).map(([name, data]): [string, Uint8Array] => [name, Buffer.from(data)]);
    return new Tokenizer(readTokenizerFiles(new Map(entries)));
  }

  /** Ids of a text. Lone surrogates count as U+FFFD. */
  encode(text: string, { addSpecialTokens = true }: EncodeOptions = {}): number[] {
    const ids = this.#pipeline.encode(text);
    return addSpecialTokens ? [...this.#around.before, ...ids, ...this.#around.after] : ids;
  }

  encodeBatch(texts: readonly string[], options: EncodeOptions = {}): number[][] {
    return texts.map((text) => this.encode(text, options));
  }

  /**
   * Ids, by default without special tokens around them, and the span of the text each came from (special tokens: none of
   * it, at its start and end). BPE models only.
   */
  encodeWithOffsets(text: string, { addSpecialTokens = false }: EncodeOptions = {}): EncodingWithOffsets {
    const { ids, offsets } = this.#pipeline.encodeWithOffsets(text);
    if (!addSpecialTokens) return { ids, offsets };
    const { before, after } = this.#around;
    const edge = (tokens: number[], at: number): number[] => tokens.flatMap(() => [at, at]);
    return {
      ids: [...before, ...ids, ...after],
      offsets: [...edge(before, 0), ...offsets, ...edge(after, text.length)],
    };
  }

  /** Text of ids. An id that is no token decodes to nothing. */
  decode(ids: Iterable<number>, { skipSpecialTokens = false }: DecodeOptions = {}): string {
    return this.#detokenizer.decode(skipSpecialTokens ? this.#withoutSpecial(ids) : ids);
  }

  decodeBatch(batch: Iterable<Iterable<number>>, options: DecodeOptions = {}): string[] {
    return Array.from(batch, (ids) => this.decode(ids, options));
  }

  /** A decoder for ids that come one by one: see `StreamDecoder`. */
  createStreamDecoder({ skipSpecialTokens = false }: DecodeOptions = {}): StreamDecoder {
    const stream = this.#detokenizer.stream();
    if (!skipSpecialTokens) return stream;
    return { push: (id) => (this.specialIds.has(id) ? "" : stream.push(id)), flush: () => stream.flush() };
  }

  tokenToId(token: string): number | null {
    return this.#ids.get(token) ?? null;
  }

  idToToken(id: number): string | null {
    return this.#tokens[id] ?? null;
  }

  get bosToken(): string | null {
    return this.specialTokens.bos_token ?? null;
  }

  get bosTokenId(): number | null {
    return this.#idOf(this.bosToken);
  }

  get eosToken(): string | null {
    return this.specialTokens.eos_token ?? null;
  }

  get eosTokenId(): number | null {
    return this.#idOf(this.eosToken);
  }

  get padToken(): string | null {
    return this.specialTokens.pad_token ?? null;
  }

  get padTokenId(): number | null {
    return this.#idOf(this.padToken);
  }

  get unkToken(): string | null {
    return this.specialTokens.unk_token ?? null;
  }

  get unkTokenId(): number | null {
    return this.#idOf(this.unkToken);
  }

  /** The default chat template's Jinja source, or null. Set it to use, and save, another. */
  get chatTemplate(): string | null {
    return this.#templates.default ?? null;
  }

  set chatTemplate(source: string) {
    this.#compile(source);
    this.#templates.default = source;
    this.#templateChanged = true;
  }

  /** A conversation as the model's chat template writes it. Throws `ChatTemplateError`. */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions & { tokenize: false }): string;
  /** As ids, `tokenize` being true by default; the template writes BOS itself, so none is added. */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: true }): number[];
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions & { tokenize?: boolean } = {},
  ): string | number[] {
    const { tokenize, ...template } = templateOptions(options);
    const { text } = this.#render(messages, template);
    return tokenize === false ? text : this.encode(text, { addSpecialTokens: false });
  }

  /**
   * A conversation's ids, and which of them the assistant generates: what the template's `{% generation %}` blocks wrote
   * or, without such blocks, each assistant message with its end-of-turn token, as `assistantSpans` finds them. A token
   * counts if any of its characters does. Throws `ChatTemplateError` where that cannot be told.
   */
  encodeChat(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): ChatEncoding {
    const { text, spans } = this.#render(messages, options);
    const render = (part: readonly ChatMessage[], addGenerationPrompt: boolean): string =>
      this.#render(part, { ...options, addGenerationPrompt }).text;
    const generated = spans ?? assistantSpans(render, messages, text, (tail) => this.#endsInSpecial(tail));
    const { ids, offsets } = this.encodeWithOffsets(text);
    let token = 0;
    const assistantTurns = generated.map(([start, end]): [number, number] => {
      while (token < ids.length && offsets[2 * token + 1]! <= start) token++;
      const first = token;
      while (token < ids.length && offsets[2 * token]! < end) token++;
      return [first, token];
    });
    return { ids, assistantTurns };
  }

  /** The contents of the tokenizer's files, as `savePretrained` writes them. */
  get files(): ReadonlyMap<string, Uint8Array> {
    const files = new Map(this.#files);
    if (this.#templateChanged) files.set("chat_template.jinja", Buffer.from(this.chatTemplate ?? ""));
    return files;
  }

  /** Writes the tokenizer's files: those it was read from byte for byte, and chat_template.jinja if that was set. */
  async savePretrained(folder: string): Promise<string[]> {
    await mkdir(folder, { recursive: true });
    const paths: string[] = [];
    for (const [name, data] of this.files) {
      await atomicWriteFile(join(folder, name), data);
      paths.push(join(folder, name));
    }
    return paths;
  }

  #render(messages: readonly ChatMessage[], options: ChatTemplateOptions): Rendering {
    if (!Array.isArray(messages)) {
      throw new ChatTemplateError('expected a list of messages, [{ role: "user", content: "…" }]');
    }
    if (messages.length === 0) throw new ChatTemplateError("the conversation is empty");
    return this.#template(options).render(messages, {
      ...this.specialTokens,
      tools: options.tools ?? null,
      documents: options.documents ?? null,
      ...options.variables,
      add_generation_prompt: options.addGenerationPrompt ?? false,
    });
  }

  #template({ chatTemplate, tools }: ChatTemplateOptions): ChatTemplate {
    const named =
      tools !== undefined && tools !== null && this.#templates.tool_use !== undefined ? "tool_use" : "default";
    const source =
      chatTemplate === undefined
        ? this.#templates[named]
        : Object.hasOwn(this.#templates, chatTemplate)
          ? this.#templates[chatTemplate]
          : chatTemplate;
    if (source === undefined) {
      throw new FormatError({
        field: "chat template",
        found: "none in this tokenizer (a base model has none)",
        expected: "one: set tokenizer.chatTemplate, or pass chatTemplate",
      });
    }
    return this.#compile(source);
  }

  #compile(source: string): ChatTemplate {
    let template = this.#compiled.get(source);
    if (template === undefined) {
      template = new ChatTemplate(source);
      this.#compiled.set(source, template);
    }
    return template;
  }

  #idOf(token: string | null): number | null {
    return token === null ? null : this.tokenToId(token);
  }

  *#withoutSpecial(ids: Iterable<number>): Iterable<number> {
    for (const id of ids) if (!this.specialIds.has(id)) yield id;
  }

  #endsInSpecial(text: string): boolean {
    const ids = this.#pipeline.encode(text.slice(-64));
    return ids.length > 0 && this.specialIds.has(ids[ids.length - 1]!);
  }
}

const TEMPLATE_OPTIONS = ["tokenize", "addGenerationPrompt", "tools", "documents", "chatTemplate", "variables"];
/** transformers' options about the form of the ids, of which there is one here. */
const FORMS = ["returnTensors", "returnDict", "padding", "truncation", "maxLength"];

/**
 * Options of `applyChatTemplate`, in snake_case too; others are variables of the template, as in transformers. Throws
 * OptionError for one that is a slip of the pen.
 */
function templateOptions(given: object): ChatTemplateOptions & { tokenize?: boolean } {
  const options: Record<string, unknown> = {};
  const variables: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(given)) {
    const name = camelCase(key);
    const close = nearest(name, TEMPLATE_OPTIONS);
    if (TEMPLATE_OPTIONS.includes(name)) options[name] = value;
    else if (close) throw new OptionError(`applyChatTemplate: unknown option "${key}"; did you mean "${close}"?`);
    else if (!FORMS.includes(name)) variables[key] = value;
  }
  if (Object.keys(variables).length === 0) return options;
  return { ...options, variables: { ...variables, ...(options.variables as object | undefined) } };
}
