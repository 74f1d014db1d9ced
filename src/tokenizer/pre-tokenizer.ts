import { FormatError, show } from "../formats/errors.ts";
import { escapeRegExp } from "./added-tokens.ts";
import { compilePattern } from "./library.ts";
import { type Component, sequenceOf, unsupported } from "./tokenizer-json.ts";

/** Pieces of a text for the model to encode one by one, as three parallel arrays. */
export interface Pieces {
  text: string[];
  /** Offset of the piece in the text that was split, in UTF-16 units. */
  start: number[];
  /** How many units at the front of the piece are not in that text: a prefix space that was put there. */
  inserted: number[];
}

/** Appends the pieces of `text`, which starts at `start` and has `inserted` units at its front, to `out`. */
type Step = (text: string, start: number, inserted: number, first: boolean, out: Pieces) => void;

/** How a split treats its matches; the names of Hugging Face tokenizers' `SplitDelimiterBehavior`. */
type Behavior = "Removed" | "Isolated" | "Contiguous" | "MergedWithPrevious" | "MergedWithNext";
const BEHAVIORS: readonly string[] = ["Removed", "Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext"];

const GPT2_PATTERN =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const TYPES = ["ByteLevel", "Digits", "Metaspace", "Punctuation", "Sequence", "Split", "Whitespace", "WhitespaceSplit"];

/**
 * The pre-tokenizer of a `tokenizer.json`. Ours rather than @huggingface/tokenizers' 0.2.0, which lacks three of the
 * five split behaviours, isolates no punctuation, knows only ASCII digits and keeps no offsets; its translation of
 * Oniguruma patterns to JavaScript is used.
 */
export class PreTokenizer {
  /** The model reads pieces as bytes. */
  readonly byteLevel: boolean;
  readonly #steps: Step[];

  constructor(component: Component | null) {
    const components = flatten(component);
    const at = components.findIndex(({ type }) => type === "ByteLevel");
    if (at !== -1 && at !== components.length - 1) {
      throw new FormatError({
        field: "pre_tokenizer",
        found: `${components[at + 1]!.type} after ByteLevel`,
        expected: "ByteLevel as the last step",
      });
    }
    this.byteLevel = at !== -1;
    this.#steps = components.map(makeStep);
  }

  /** Splits `text`; `first` says that it stands at the very start of the input. */
  split(text: string, first: boolean): Pieces {
    let pieces: Pieces = { text: [text], start: [0], inserted: [0] };
    for (const step of this.#steps) {
      const next: Pieces = { text: [], start: [], inserted: [] };
      for (let i = 0; i < pieces.text.length; i++) {
        step(pieces.text[i]!, pieces.start[i]!, pieces.inserted[i]!, first && pieces.start[i] === 0, next);
      }
      pieces = next;
    }
    return pieces;
  }
}

function flatten(component: Component | null): Component[] {
  if (component === null) return [];
  return component.type === "Sequence" ? sequenceOf(component, "pretokenizers").flatMap(flatten) : [component];
}

function makeStep(component: Component): Step {
  switch (component.type) {
    case "ByteLevel": {
      const regex = component.use_regex !== false;
      return withPrefix(component.add_prefix_space !== false ? " " : null, (text, start, inserted, out) => {
        if (regex) splitText(text, start, inserted, GPT2_PATTERN, "Isolated", false, out);
        else append(out, text, start, inserted);
      });
    }
    case "Metaspace":
      return metaspaceStep(component);
    case "Split": {
      const behavior = component.behavior;
      if (typeof behavior !== "string" || !BEHAVIORS.includes(behavior)) {
        const expected = `one of ${BEHAVIORS.join(", ")}`;
        throw new FormatError({ field: "pre_tokenizer Split.behavior", found: show(behavior), expected });
      }
      return splitStep(compilePattern(component, "pre_tokenizer"), behavior as Behavior, component.invert === true);
    }
    case "Digits":
      return splitStep(/\p{N}/gu, component.individual_digits === true ? "Isolated" : "Contiguous");
    case "Punctuation": {
      const behavior = typeof component.behavior === "string" ? component.behavior : "Isolated";
      return splitStep(/[\p{P}!-/:-@[-`{-~]/gu, behavior as Behavior);
    }
    case "Whitespace":
      return splitStep(
        /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu,
        "Removed",
        true,
      );
    case "WhitespaceSplit":
      return splitStep(/\p{White_Space}/gu, "Removed");
    default:
      throw unsupported("pre_tokenizer", component.type, TYPES);
  }
}

function splitStep(pattern: RegExp, behavior: Behavior, invert = false): Step {
  return (text, start, inserted, _first, out) => splitText(text, start, inserted, pattern, behavior, invert, out);
}

/** Puts `prefix` in front of a text that does not start with it, then goes on with `rest`. */
function withPrefix(
  prefix: string | null,
  rest: (text: string, start: number, inserted: number, out: Pieces) => void,
): Step {
  return (text, start, inserted, _first, out) => {
    if (prefix === null || text.startsWith(prefix)) rest(text, start, inserted, out);
    else rest(prefix + text, start, inserted + prefix.length, out);
  };
}

function metaspaceStep(component: Component): Step {
  const mark = typeof component.replacement === "string" ? component.replacement : "▁";
  const scheme = component.prepend_scheme ?? (component.add_prefix_space === false ? "never" : "always");
  if (scheme !== "always" && scheme !== "first" && scheme !== "never") {
    const expected = '"always", "first" or "never"';
    throw new FormatError({ field: "pre_tokenizer Metaspace.prepend_scheme", found: show(scheme), expected });
  }
  const pattern = new RegExp(escapeRegExp(mark), "g");
  const cut = (text: string, start: number, inserted: number, out: Pieces): void => {
    if (component.split !== false) splitText(text, start, inserted, pattern, "MergedWithNext", false, out);
    else append(out, text, start, inserted);
  };
  const prefixed = withPrefix(mark, cut);
  return (text, start, inserted, first, out) => {
    const marked = text.replaceAll(" ", mark);
    if (scheme === "always" || (scheme === "first" && first)) prefixed(marked, start, inserted, first, out);
    else cut(marked, start, inserted, out);
  };
}

function append(out: Pieces, text: string, start: number, inserted: number): void {
  out.text.push(text);
  out.start.push(start);
  out.inserted.push(inserted);
}

/**
 * Cuts `text` at the matches of `pattern` (which counts what it does not match, with `invert`). The first piece holds
 * the units that were inserted at the front of `text`.
 */
function splitText(
  text: string,
  start: number,
  inserted: number,
  pattern: RegExp,
  behavior: Behavior,
  invert: boolean,
  out: Pieces,
): void {
  const emit = (from: number, to: number): void => {
    if (to <= from) return;
    append(out, text.slice(from, to), start + Math.max(0, from - inserted), Math.max(0, Math.min(inserted, to) - from));
  };
  // Ends of consecutive stretches, and whether each is a match.
  let done = 0;
  // The piece being built, for the behaviours that merge.
  let open = 0;
  let openIsMatch = false;
  const visit = (to: number, isMatch: boolean): void => {
    if (to === done) return;
    switch (behavior) {
      case "Isolated":
        emit(done, to);
        break;
      case "Removed":
        if (!isMatch) emit(done, to);
        break;
      case "Contiguous":
        if (isMatch !== openIsMatch) {
          emit(open, done);
          open = done;
        }
        break;
      case "MergedWithPrevious":
        // A match joins what is before it, unless that is a match too.
        if (!isMatch || openIsMatch) {
          emit(open, done);
          open = done;
        }
        break;
      case "MergedWithNext":
        // A match joins what is after it, unless that is a match too.
        if (isMatch || !openIsMatch) {
          emit(open, done);
          open = done;
        }
        break;
    }
    openIsMatch = isMatch;
    done = to;
  };
  for (const match of text.matchAll(pattern)) {
    visit(match.index, invert);
    visit(match.index + match[0].length, !invert);
  }
  visit(text.length, invert);
  if (behavior !== "Isolated" && behavior !== "Removed") emit(open, done);
}
