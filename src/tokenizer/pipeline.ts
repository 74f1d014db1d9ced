import { AddedTokenSplitter, type Segment } from "./added-tokens.ts";
import { BpeModel, type TokenModel } from "./bpe-model.ts";
import { Normalizer } from "./normalizer.ts";
import { PreTokenizer } from "./pre-tokenizer.ts";
import { type AddedToken, type TokenizerJson, unsupported } from "./tokenizer-json.ts";
import { UnigramModel } from "./unigram-model.ts";

/** Ids, and the span of the text each came from: offsets[2i] to offsets[2i + 1], in UTF-16 units. */
export interface EncodingWithOffsets {
  ids: number[];
  offsets: number[];
}

/**
 * Text to ids, without special tokens around it: added tokens are cut out, what is left is normalised, searched for
 * normalised added tokens, pre-tokenized, and each piece goes to the model.
 */
export class Pipeline {
  readonly model: TokenModel;
  /** What an added token reads as when decoded: its content, normalised where the token is. */
  readonly addedText = new Map<number, string>();
  readonly #normalizer: Normalizer;
  readonly #preTokenizer: PreTokenizer;
  /** Added tokens looked for in the text as given, and in the normalised text. */
  readonly #raw: AddedTokenSplitter;
  readonly #normalized: AddedTokenSplitter;

  constructor(json: TokenizerJson, addedTokens: readonly AddedToken[]) {
    this.#normalizer = new Normalizer(json.normalizer);
    this.#preTokenizer = new PreTokenizer(json.pre_tokenizer);
    this.model = makeModel(json, this.#preTokenizer.byteLevel);
    const raw: [string, AddedToken][] = [];
    const normalized: [string, AddedToken][] = [];
    for (const token of addedTokens) {
      const content = token.normalized ? this.#normalizer.apply(token.content) : token.content;
      (token.normalized ? normalized : raw).push([content, token]);
      this.addedText.set(token.id, content);
    }
    this.#raw = new AddedTokenSplitter(raw);
    this.#normalized = new AddedTokenSplitter(normalized);
  }

  encode(text: string): number[] {
    const source = wellFormed(text);
    const ids: number[] = [];
    for (const segment of this.#raw.split(source)) {
      if (segment.id >= 0) {
        ids.push(segment.id);
        continue;
      }
      const normalized = this.#normalizer.apply(source.slice(segment.start, segment.end));
      for (const part of this.#normalized.split(normalized)) {
        if (part.id >= 0) {
          ids.push(part.id);
          continue;
        }
        const pieces = this.#pieces(normalized, segment, part);
        for (const piece of pieces.text) this.model.encode(piece, ids);
      }
    }
    return ids;
  }

  /** Throws where the model gives no offsets (Unigram). */
  encodeWithOffsets(text: string): EncodingWithOffsets {
    if (this.model.encodeWithLengths === undefined) throw unsupported("model", "Unigram", ["BPE (it gives offsets)"]);
    const source = wellFormed(text);
    const ids: number[] = [];
    const offsets: number[] = [];
    for (const segment of this.#raw.split(source)) {
      if (segment.id >= 0) {
        ids.push(segment.id);
        offsets.push(segment.start, segment.end);
        continue;
      }
      const aligned = this.#normalizer.align(source.slice(segment.start, segment.end));
      const original = (from: number, to: number): void => {
        const end = segment.start + aligned.ends[to - 1]!;
        offsets.push(segment.start + aligned.starts[from]!, isHighSurrogate(source, end - 1) ? end + 1 : end);
      };
      for (const part of this.#normalized.split(aligned.text)) {
        if (part.id >= 0) {
          ids.push(part.id);
          original(part.start, part.end);
          continue;
        }
        const pieces = this.#pieces(aligned.text, segment, part);
        for (let i = 0; i < pieces.text.length; i++) {
          const spans = this.#encodePiece(pieces.text[i]!, ids);
          // Offsets in the piece to offsets in the normalised text; an inserted prefix is part of its first character.
          const base = part.start + pieces.start[i]!;
          const inserted = pieces.inserted[i]!;
          for (let j = 0; j < spans.length; j += 2) {
            const from = Math.max(0, spans[j]! - inserted);
            original(base + from, base + Math.max(from + 1, spans[j + 1]! - inserted));
          }
        }
      }
    }
    return { ids, offsets };
  }

  #pieces(text: string, segment: Segment, part: Segment): ReturnType<PreTokenizer["split"]> {
    return this.#preTokenizer.split(text.slice(part.start, part.end), segment.start === 0 && part.start === 0);
  }

  /** Appends the ids of a piece; returns the UTF-16 span of each in the piece, widened to whole characters. */
  #encodePiece(piece: string, ids: number[]): number[] {
    const lengths: number[] = [];
    this.model.encodeWithLengths!(piece, ids, lengths);
    const spans: number[] = [];
    let at = 0;
    if (Buffer.byteLength(piece) === piece.length) {
      // All ASCII: a byte is a unit.
      for (const length of lengths) {
        spans.push(at, at + length);
        at += length;
      }
      return spans;
    }
    // unitOf[b]: the UTF-16 unit at which the character holding byte b starts.
    const unitOf: number[] = [];
    let unit = 0;
    for (const char of piece) {
      const bytes = Buffer.byteLength(char);
      for (let i = 0; i < bytes; i++) unitOf.push(unit);
      unit += char.length;
    }
    for (const length of lengths) {
      const start = unitOf[at]!;
      at += length;
      const last = unitOf[at - 1]!;
      spans.push(start, last + (isHighSurrogate(piece, last) ? 2 : 1));
    }
    return spans;
  }
}

function makeModel(json: TokenizerJson, byteLevel: boolean): TokenModel {
  switch (json.model.type) {
    case "BPE":
      return new BpeModel(json.model, byteLevel);
    case "Unigram":
      return new UnigramModel(json.model);
    default:
      throw unsupported("model", json.model.type, ["BPE", "Unigram"]);
  }
}

/** Whether unit `at` starts a character of two units. */
function isHighSurrogate(text: string, at: number): boolean {
  return text.codePointAt(at)! > 0xffff;
}

/** A lone surrogate has no UTF-8; it is read as U+FFFD, which is as long. */
function wellFormed(text: string): string {
  return text.replace(/\p{Surrogate}/gu, "\ufffd");
}
