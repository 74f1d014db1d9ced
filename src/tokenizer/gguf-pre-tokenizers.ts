import type { Component } from "./tokenizer-json.ts";

/** How a byte-level vocabulary splits text before its merges: what a GGUF file's `tokenizer.ggml.pre` stands for. */
export interface GgufPreTokenizer {
  preTokenizer: Component;
  normalizer: Component | null;
  /** A whole piece that is a token stays one, even where the merges would not make it. */
  ignoreMerges: boolean;
  /** Whether BOS is put in front where the file does not say. */
  addBos: boolean;
}

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const SPACES = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const MIXED_CASE = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
const LOWER_CASE = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";

/** The words of cl100k's family: digits by `digits`, `marks` joining letters or not. */
function words(digits: string, marks = ""): string {
  const letters = marks === "" ? "\\p{L}+" : `[\\p{L}${marks}]+`;
  return `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?${letters}|${digits}| ?[^\\s\\p{L}${marks}\\p{N}]+[\\r\\n]*|${SPACES}`;
}

/** The words of o200k's family: split where a capital follows a small letter. */
function casedWords(digits: string, suffix: string): string {
  const lead = "[^\\r\\n\\p{L}\\p{N}]?";
  return (
    `${lead}${MIXED_CASE}*${LOWER_CASE}+${suffix}|${lead}${MIXED_CASE}+${LOWER_CASE}*${suffix}|${digits}` +
    `| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${SPACES}`
  );
}

function byPattern(pattern: string, options: Partial<GgufPreTokenizer> = {}): GgufPreTokenizer {
  const split = { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
  const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };
  return {
    preTokenizer: { type: "Sequence", pretokenizers: [split, bytes] },
    normalizer: null,
    ignoreMerges: false,
    addBos: false,
    ...options,
  };
}

const GPT2_BYTES = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: true };
const gpt2: GgufPreTokenizer = { preTokenizer: GPT2_BYTES, normalizer: null, ignoreMerges: false, addBos: false };
const singleDigits: GgufPreTokenizer = {
  ...gpt2,
  preTokenizer: { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: true }, GPT2_BYTES] },
};
const llama3 = byPattern(words("\\p{N}{1,3}"), { ignoreMerges: true, addBos: true });
const llama3Words = byPattern(words("\\p{N}{1,3}"));
const qwen2 = byPattern(words("\\p{N}"), { normalizer: { type: "NFC" } });
const qwen35 = byPattern(words("\\p{N}", "\\p{M}"), { normalizer: { type: "NFC" } });
const tekken = byPattern(casedWords("\\p{N}", ""), { ignoreMerges: true, addBos: true });
const o200k = byPattern(casedWords("\\p{N}{1,3}", `${CONTRACTIONS}?`));

/** By the names llama.cpp writes. "default" is what older files have, whose vocabularies are mostly GPT-2's kind. */
export const GGUF_PRE_TOKENIZERS: Readonly<Record<string, GgufPreTokenizer>> = {
  default: gpt2,
  "gpt-2": gpt2,
  "phi-2": gpt2,
  mpt: gpt2,
  olmo: gpt2,
  smollm: singleDigits,
  starcoder: singleDigits,
  refact: singleDigits,
  codeshell: singleDigits,
  "command-r": singleDigits,
  exaone: singleDigits,
  "llama-bpe": llama3,
  llama3,
  "llama-v3": llama3,
  falcon3: llama3,
  pixtral: llama3,
  lfm2: llama3,
  dbrx: llama3Words,
  "smaug-bpe": llama3Words,
  qwen2,
  "deepseek-r1-qwen": qwen2,
  stablelm2: qwen2,
  megrez: qwen2,
  qwen35,
  tekken,
  "gpt-4o": o200k,
  llama4: o200k,
};
