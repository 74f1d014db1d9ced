import { FormatError, show } from "../formats/errors.ts";
import type { TokenModel } from "./bpe-model.ts";
import { libraryUnigram } from "./library.ts";
import type { Component } from "./tokenizer-json.ts";

/** A Unigram (SentencePiece) model, run by @huggingface/tokenizers. Gives no offsets. */
export class UnigramModel implements TokenModel {
  readonly vocab: ReadonlyMap<string, number>;
  readonly #tokens: (piece: string) => string[];
  readonly #unknown: number;

  constructor(model: Component) {
    const entries = model.vocab;
    if (!Array.isArray(entries) || !entries.every((e) => Array.isArray(e) && typeof e[0] === "string")) {
      throw new FormatError({ field: "model.vocab", found: show(entries), expected: "an array of [token, score]" });
    }
    if (typeof model.unk_id !== "number" || entries[model.unk_id] === undefined) {
      throw new FormatError({ field: "model.unk_id", found: show(model.unk_id), expected: "the id of a token" });
    }
    this.vocab = new Map((entries as [string, number][]).map(([token], id) => [token, id]));
    this.#unknown = model.unk_id;
    this.#tokens = libraryUnigram({ ...model, vocab: entries as [string, number][] });
  }

  encode(piece: string, out: number[]): void {
    if (piece === "") return;
    for (const token of this.#tokens(piece)) out.push(this.vocab.get(token) ?? this.#unknown);
  }
}
