import * as tokenizers from "@huggingface/tokenizers";
import { FormatError, reason, show } from "../formats/errors.ts";
import { escapeRegExp } from "./added-tokens.ts";
import { type Component, isRecord } from "./tokenizer-json.ts";

/** What is used of @huggingface/tokenizers 0.2.0; its own declarations do not resolve under `moduleResolution: nodenext`. */
const library = tokenizers as unknown as {
  SplitPreTokenizer: new (config: object) => { pattern: RegExp };
  SequenceNormalizer: new (config: object) => { normalize(text: string): string };
  Unigram: new (config: object, eosToken: string) => { _call(pieces: string[]): string[] };
};

/**
 * The `pattern` of a Split or Replace component, `{"String": …}` or `{"Regex": …}`, as a global regular expression. The
 * latter is Oniguruma's; the library translates it. (Its strings go through a `u` flag and `$` rules we do not want.)
 */
export function compilePattern(component: Component, kind: string): RegExp {
  const pattern = isRecord(component.pattern) ? component.pattern : {};
  const field = `${kind} ${component.type}.pattern`;
  if (typeof pattern.String === "string") return new RegExp(escapeRegExp(pattern.String), "g");
  if (typeof pattern.Regex !== "string") {
    throw new FormatError({ field, found: show(component.pattern), expected: 'an object with "String" or "Regex"' });
  }
  try {
    return new library.SplitPreTokenizer({ type: "Split", pattern: { Regex: pattern.Regex } }).pattern;
  } catch (cause) {
    throw new FormatError({
      field,
      found: `${show(pattern.Regex)} (${reason(cause)})`,
      expected: "a pattern that JavaScript's regular expressions can run",
      cause,
    });
  }
}

/** A normaliser that the library runs; throws `FormatError` on one it does not know. */
export function libraryNormalizer(component: Component): (text: string) => string {
  try {
    const normalizer = new library.SequenceNormalizer({ type: "Sequence", normalizers: [component] });
    return (text) => normalizer.normalize(text);
  } catch (cause) {
    throw new FormatError({ field: "normalizer", found: reason(cause), expected: "a known type of normaliser", cause });
  }
}

/** A Unigram model: one piece to its tokens' strings. */
export function libraryUnigram(model: Component & { vocab: [string, number][] }): (piece: string) => string[] {
  // The library writes into the scores it is given.
  const unigram = new library.Unigram({ ...model, vocab: model.vocab.map((entry) => [...entry]) }, "");
  return (piece) => unigram._call([piece]);
}
