import { FormatError, show } from "../formats/errors.ts";
import { nearest } from "../util/nearest.ts";
import { GGUF_PRE_TOKENIZERS } from "./gguf-pre-tokenizers.ts";
import { sentencePieceMerges } from "./gguf-sentencepiece.ts";
import { Tokenizer } from "./tokenizer.ts";
import { type Component, isRecord } from "./tokenizer-json.ts";

/** Values of `tokenizer.ggml.token_type`. */
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const BYTE = 6;

/** What the metadata says, checked. */
interface GgufVocabulary {
  tokens: string[];
  types: number[];
  /** Role ("bos_token") to id. */
  special: Map<string, number>;
  file: string | undefined;
}

/**
 * The tokenizer that a GGUF file's metadata describes, as a Hugging Face tokenizer: `savePretrained` then writes a
 * folder that Hugging Face tokenizers load. Byte-level BPE (model "gpt2") and SentencePiece BPE ("llama").
 *
 * @param metadata by key; values plain (numbers, bigints, strings, arrays, typed arrays), or `{ value }` around such
 * @param file named in errors
 */
export function tokenizerFromGguf(
  metadata: Readonly<Record<string, unknown>> | ReadonlyMap<string, unknown>,
  file?: string,
): Tokenizer {
  const get = (key: string): unknown => {
    const name = `tokenizer.${key}`;
    const value = metadata instanceof Map ? metadata.get(name) : (metadata as Record<string, unknown>)[name];
    return isRecord(value) && "value" in value ? value.value : value;
  };
  const fail = (key: string, expected: string): never => {
    throw new FormatError({ file, field: `metadata tokenizer.${key}`, found: show(get(key)), expected });
  };
  const tokens = stringArray(get("ggml.tokens")) ?? fail("ggml.tokens", "an array of strings");
  const types = numberArray(get("ggml.token_type")) ?? tokens.map(() => 1);
  if (types.length !== tokens.length) fail("ggml.token_type", `${tokens.length} numbers, one a token`);
  const special = new Map<string, number>();
  for (const [role, key] of Object.entries(SPECIAL_KEYS)) {
    const id = get(key);
    if (id === undefined) continue;
    if (tokens[Number(id)] === undefined) fail(key, `an id below ${tokens.length}`);
    special.set(role, Number(id));
  }
  const vocabulary = { tokens, types, special, file };
  const model = get("ggml.model");
  const { json, addBos } =
    model === "gpt2"
      ? byteLevel(vocabulary, get("ggml.pre") ?? "default", stringArray(get("ggml.merges")))
      : model === "llama"
        ? sentencePiece(vocabulary, {
            scores: numberArray(get("ggml.scores")) ?? fail("ggml.scores", "an array of numbers"),
            merges: stringArray(get("ggml.merges")),
            spacePrefix: get("ggml.add_space_prefix") !== false,
          })
        : fail("ggml.model", '"gpt2" (byte-level BPE) or "llama" (SentencePiece BPE)');
  const around = {
    bos: get("ggml.add_bos_token") ?? addBos,
    eos: get("ggml.add_eos_token") ?? false,
  };
  const post = postProcessor(vocabulary, around.bos === true, around.eos === true, model === "gpt2");
  const specialTokens = Object.fromEntries([...special].map(([role, id]) => [role, tokens[id]!]));
  const template = get("chat_template");
  return Tokenizer.fromFiles({
    "tokenizer.json": JSON.stringify({
      version: "1.0",
      truncation: null,
      padding: null,
      ...json,
      post_processor: post,
    }),
    "tokenizer_config.json": pretty({
      ...specialTokens,
      clean_up_tokenization_spaces: false,
      tokenizer_class: "PreTrainedTokenizerFast",
    }),
    "special_tokens_map.json": pretty(specialTokens),
    ...(typeof template === "string" && { "chat_template.jinja": template }),
  });
}

const SPECIAL_KEYS = {
  bos_token: "ggml.bos_token_id",
  eos_token: "ggml.eos_token_id",
  unk_token: "ggml.unknown_token_id",
  pad_token: "ggml.padding_token_id",
};

function byteLevel(vocabulary: GgufVocabulary, pre: unknown, merges: string[] | null): Built {
  const { file } = vocabulary;
  const known =
    typeof pre === "string" && Object.hasOwn(GGUF_PRE_TOKENIZERS, pre) ? GGUF_PRE_TOKENIZERS[pre] : undefined;
  if (known === undefined) {
    const names = Object.keys(GGUF_PRE_TOKENIZERS);
    const close = typeof pre === "string" ? nearest(pre, names) : null;
    throw new FormatError({
      file,
      field: "metadata tokenizer.ggml.pre",
      found: show(pre),
      expected: `a pre-tokenizer that is known here: ${names.join(", ")}${close === null ? "" : ` (nearest: ${close})`}`,
    });
  }
  if (merges === null) {
    const field = "metadata tokenizer.ggml.merges";
    throw new FormatError({ file, field, found: "nothing", expected: "an array of strings" });
  }
  const unknown = vocabulary.special.get("unk_token");
  const json = {
    added_tokens: addedTokens(vocabulary, () => true),
    normalizer: known.normalizer,
    pre_tokenizer: known.preTokenizer,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      ...bpe(vocabulary.tokens, merges),
      unk_token: unknown === undefined ? null : vocabulary.tokens[unknown]!,
      ignore_merges: known.ignoreMerges,
    },
  };
  return { json, addBos: known.addBos };
}

/**
 * SentencePiece's own vocabulary, in the layout Llama-2's converter writes: a space is "▁", with `spacePrefix` one is
 * put in front of every stretch of text, as llama.cpp does too.
 */
function sentencePiece(
  vocabulary: GgufVocabulary,
  options: { scores: ArrayLike<number>; merges: string[] | null; spacePrefix: boolean },
): Built {
  const { types, file } = vocabulary;
  if (options.scores.length !== vocabulary.tokens.length) {
    throw new FormatError({
      file,
      field: "metadata tokenizer.ggml.scores",
      found: `${options.scores.length} numbers`,
      expected: `${vocabulary.tokens.length}, one a token`,
    });
  }
  // Gemma's files spell tokens of nothing but spaces with real ones; the text they meet has "▁".
  const isSpaces = vocabulary.tokens.map((token) => /^ {2,}$/.test(token));
  const tokens = vocabulary.tokens.map((token, id) => (isSpaces[id] ? "▁".repeat(token.length) : token));
  const spelled = { ...vocabulary, tokens };
  const unknown = vocabulary.special.get("unk_token") ?? types.indexOf(UNKNOWN);
  if (unknown === -1) {
    const field = "metadata tokenizer.ggml.unknown_token_id";
    throw new FormatError({ file, field, found: "nothing", expected: "the id of the unknown token" });
  }
  const replace = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const prepend = { type: "Prepend", prepend: "▁" };
  const back = { type: "Replace", pattern: { String: "▁" }, content: " " };
  const json = {
    added_tokens: addedTokens(spelled, (id) => !isSpaces[id]),
    normalizer: options.spacePrefix ? { type: "Sequence", normalizers: [prepend, replace] } : replace,
    pre_tokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: [
        back,
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(options.spacePrefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      ...bpe(tokens, options.merges ?? sentencePieceMerges(tokens, types, options.scores)),
      unk_token: tokens[unknown]!,
      fuse_unk: true,
      byte_fallback: types.includes(BYTE),
      ignore_merges: false,
    },
  };
  return { json, addBos: true };
}

/** `tokenizer.json` but for its post-processor, and whether BOS goes in front unless the file says. */
interface Built {
  json: Record<string, unknown>;
  addBos: boolean;
}

function bpe(tokens: readonly string[], merges: readonly unknown[]): Component {
  const vocab: Record<string, number> = Object.create(null) as Record<string, number>;
  // Of equal tokens (padding some converters add) the first is the one.
  tokens.forEach((token, id) => {
    if (!(token in vocab)) vocab[token] = id;
  });
  return { type: "BPE", dropout: null, continuing_subword_prefix: "", end_of_word_suffix: "", vocab, merges };
}

function addedTokens({ tokens, types, special }: GgufVocabulary, include: (id: number) => boolean): object[] {
  const named = new Set(special.values());
  const added: object[] = [];
  tokens.forEach((content, id) => {
    const isSpecial = types[id] === CONTROL || types[id] === UNKNOWN || named.has(id);
    if (content === "" || !include(id) || !(isSpecial || types[id] === USER_DEFINED)) return;
    added.push({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: isSpecial,
    });
  });
  return added;
}

function postProcessor(
  { tokens, special, file }: GgufVocabulary,
  bos: boolean,
  eos: boolean,
  byteLevelFirst: boolean,
): Component | null {
  const bytes = { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true };
  if (!bos && !eos) return byteLevelFirst ? bytes : null;
  const token = (role: string, key: string): { id: string; ids: number[]; tokens: string[] } => {
    const id = special.get(role);
    if (id !== undefined) return { id: tokens[id]!, ids: [id], tokens: [tokens[id]!] };
    const field = `metadata tokenizer.ggml.${key}`;
    throw new FormatError({ file, field, found: "nothing", expected: `an id, as ${role} is to be added` });
  };
  const before = bos ? [token("bos_token", "bos_token_id")] : [];
  const after = eos ? [token("eos_token", "eos_token_id")] : [];
  const piece = ({ id }: { id: string }, type: number): object => ({ SpecialToken: { id, type_id: type } });
  const part = (sequence: "A" | "B", type: number): object[] => [
    ...before.map((item) => piece(item, type)),
    { Sequence: { id: sequence, type_id: type } },
    ...after.map((item) => piece(item, type)),
  ];
  const template = {
    type: "TemplateProcessing",
    single: part("A", 0),
    pair: [...part("A", 0), ...part("B", 1)],
    special_tokens: Object.fromEntries([...before, ...after].map((item) => [item.id, item])),
  };
  return byteLevelFirst ? { type: "Sequence", processors: [bytes, template] } : template;
}

function stringArray(value: unknown): string[] | null {
  return Array.isArray(value) && value.every((item) => typeof item === "string") ? value : null;
}

/** Numbers from a plain or typed array. */
function numberArray(value: unknown): number[] | null {
  const list =
    Array.isArray(value) || ArrayBuffer.isView(value) ? Array.from(value as ArrayLike<unknown>, Number) : null;
  return list?.every((item) => !Number.isNaN(item)) ? list : null;
}

function pretty(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
