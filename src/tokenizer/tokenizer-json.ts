import { FormatError, show } from "../formats/errors.ts";

/** One normaliser, pre-tokenizer, post-processor, decoder or model of a `tokenizer.json`: its `type` and its options. */
export interface Component {
  readonly type: string;
  readonly [option: string]: unknown;
}

/** A token matched in the text before any other processing. Options as in Hugging Face tokenizers' `AddedToken`. */
export interface AddedToken {
  id: number;
  content: string;
  /** Matched only where no word character touches it. */
  single_word: boolean;
  /** The match takes the whitespace before it, or after it, along. */
  lstrip: boolean;
  rstrip: boolean;
  /** Searched for in the normalised text, else in the text as given. */
  normalized: boolean;
  /** Left out of the decoded text with `skipSpecialTokens`. */
  special: boolean;
}

/** The parts of a Hugging Face `tokenizer.json` that encoding and decoding use. */
export interface TokenizerJson {
  added_tokens: AddedToken[];
  normalizer: Component | null;
  pre_tokenizer: Component | null;
  post_processor: Component | null;
  decoder: Component | null;
  model: Component;
}

/** A plain JSON object, as opposed to null, an array or a scalar. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Checks the outline of a parsed `tokenizer.json`; throws `FormatError` with the field at fault. */
export function checkTokenizerJson(value: unknown, file?: string): TokenizerJson {
  if (!isRecord(value)) {
    throw new FormatError({ file, field: "tokenizer", found: show(value), expected: "a JSON object" });
  }
  const model = value.model;
  if (!isRecord(model)) {
    throw new FormatError({ file, field: "model", found: show(model), expected: "an object with a vocabulary" });
  }
  const added = value.added_tokens ?? [];
  if (!Array.isArray(added)) {
    throw new FormatError({ file, field: "added_tokens", found: show(added), expected: "an array" });
  }
  return {
    added_tokens: added.map((token, i) => checkAddedToken(token, `added_tokens[${i}]`, file)),
    normalizer: checkComponent(value.normalizer, "normalizer", file),
    pre_tokenizer: checkComponent(value.pre_tokenizer, "pre_tokenizer", file),
    post_processor: checkComponent(value.post_processor, "post_processor", file),
    decoder: checkComponent(value.decoder, "decoder", file),
    model: { ...model, type: typeof model.type === "string" ? model.type : guessModelType(model) },
  };
}

/** Checks one added token; `id` may be given apart, as `tokenizer_config.json` has it. */
export function checkAddedToken(value: unknown, field: string, file?: string, id?: number): AddedToken {
  const token = isRecord(value) ? value : {};
  const tokenId = id ?? token.id;
  if (typeof token.content !== "string" || token.content === "" || !isTokenId(tokenId)) {
    throw new FormatError({
      file,
      field,
      found: isRecord(value) ? `id ${show(tokenId)}, content ${show(token.content)}` : show(value),
      expected: "an object with a non-negative integer id and a non-empty content",
    });
  }
  const special = token.special === true;
  return {
    id: tokenId,
    content: token.content,
    single_word: token.single_word === true,
    lstrip: token.lstrip === true,
    rstrip: token.rstrip === true,
    normalized: typeof token.normalized === "boolean" ? token.normalized : !special,
    special,
  };
}

/** 2^26 ids is far beyond any vocabulary, and keeps a hostile file from asking for a huge table. */
export function isTokenId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 26;
}

/** The sub-components of a Sequence: `key` is `normalizers`, `pretokenizers`, `processors` or `decoders`. */
export function sequenceOf(component: Component, key: string): Component[] {
  const list = component[key];
  if (!Array.isArray(list)) {
    throw new FormatError({ field: `Sequence.${key}`, found: show(list), expected: "an array of components" });
  }
  return list.map((item, i) => {
    const checked = checkComponent(item, `Sequence.${key}[${i}]`);
    if (checked === null) {
      throw new FormatError({ field: `Sequence.${key}[${i}]`, found: "null", expected: "a component" });
    }
    return checked;
  });
}

/** The error for a component this library does not run. */
export function unsupported(kind: string, type: string, supported: readonly string[]): FormatError {
  return new FormatError({ field: kind, found: `type ${show(type)}`, expected: `one of ${supported.join(", ")}` });
}

function checkComponent(value: unknown, field: string, file?: string): Component | null {
  if (value === null || value === undefined) return null;
  if (!isRecord(value) || typeof value.type !== "string") {
    throw new FormatError({ file, field, found: show(value), expected: "null or an object with a type" });
  }
  return value as Component;
}

/** Files written before 2021 leave the type out. */
function guessModelType(model: Record<string, unknown>): string {
  if (Array.isArray(model.vocab)) return "Unigram";
  return Array.isArray(model.merges) ? "BPE" : "WordPiece";
}
