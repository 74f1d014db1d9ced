import { FormatError, show } from "../formats/errors.ts";
import { compilePattern, libraryNormalizer } from "./library.ts";
import { type Component, sequenceOf } from "./tokenizer-json.ts";

/** Normalised text, and for each of its UTF-16 units the span of the original text it came from. */
export interface AlignedText {
  text: string;
  /** Length text.length each; original offsets in UTF-16 units. */
  starts: Int32Array;
  ends: Int32Array;
}

/** One step of a normaliser. `align` carries the alignment of its input over to its output. */
interface Step {
  apply(text: string): string;
  align(input: AlignedText): AlignedText;
}

/**
 * The normaliser of a `tokenizer.json`: text in, text out, and on demand an alignment back to the original.
 * The steps themselves are @huggingface/tokenizers'; the alignment is ours.
 */
export class Normalizer {
  readonly #steps: Step[];

  constructor(component: Component | null) {
    this.#steps = component === null ? [] : makeSteps(component);
  }

  apply(text: string): string {
    let result = text;
    for (const step of this.#steps) result = step.apply(result);
    return result;
  }

  /** As `apply`, with offsets into `text`. */
  align(text: string): AlignedText {
    const starts = new Int32Array(text.length);
    const ends = new Int32Array(text.length);
    for (let i = 0; i < text.length; i++) {
      starts[i] = i;
      ends[i] = i + 1;
    }
    let result: AlignedText = { text, starts, ends };
    for (const step of this.#steps) result = step.align(result);
    return result;
  }
}

function makeSteps(component: Component): Step[] {
  switch (component.type) {
    case "Sequence":
      return sequenceOf(component, "normalizers").flatMap(makeSteps);
    case "Prepend":
      return [prependStep(component)];
    case "Replace":
      return [replaceStep(component)];
    default:
      return [chunkedStep(component)];
  }
}

function prependStep(component: Component): Step {
  const prefix = component.prepend;
  if (typeof prefix !== "string") {
    throw new FormatError({ field: "normalizer Prepend.prepend", found: show(prefix), expected: "a string" });
  }
  const apply = (text: string): string => (text === "" ? "" : prefix + text);
  // What is put in front counts as part of the first character, as in Hugging Face tokenizers.
  const align = (input: AlignedText): AlignedText => {
    if (input.text === "") return input;
    const source = (i: number): number => Math.max(0, i - prefix.length);
    return pick(input, apply(input.text), source, source);
  };
  return { apply, align };
}

function replaceStep(component: Component): Step {
  const content = typeof component.content === "string" ? component.content : "";
  const pattern = compilePattern(component, "normalizer");
  const apply = (text: string): string => text.replaceAll(pattern, () => content);
  const align = (input: AlignedText): AlignedText => {
    const first: number[] = [];
    const last: number[] = [];
    const copyTo = (from: number, to: number): void => {
      for (let i = from; i < to; i++) {
        first.push(i);
        last.push(i);
      }
    };
    let done = 0;
    for (const match of input.text.matchAll(pattern)) {
      copyTo(done, match.index);
      done = match.index + match[0].length;
      for (let i = 0; i < content.length; i++) {
        first.push(Math.min(match.index, input.text.length - 1));
        last.push(Math.max(match.index, done - 1));
      }
    }
    copyTo(done, input.text.length);
    return pick(
      input,
      apply(input.text),
      (i) => first[i]!,
      (i) => last[i]!,
    );
  };
  return { apply, align };
}

// A character with its combining marks, or a run of Hangul letters (which compose without being marks).
const CHUNK = /[\u1100-\u11ff]+\p{M}*|[^\p{M}\u1100-\u11ff]\p{M}*|\p{M}+/gu;

/**
 * NFC, lower case and the like change a chunk at a time, so applying them to each chunk gives the alignment. Should the
 * chunks not add up to the whole (a normaliser that looks further), every unit is aligned to the whole input.
 */
function chunkedStep(component: Component): Step {
  const normalize = libraryNormalizer(component);
  const apply = (text: string): string => (text === "" ? "" : normalize(text));
  const align = (input: AlignedText): AlignedText => {
    const whole = apply(input.text);
    if (whole === input.text) return input;
    const first: number[] = [];
    const last: number[] = [];
    let joined = "";
    for (const match of input.text.matchAll(CHUNK)) {
      const part = apply(match[0]);
      joined += part;
      for (let i = 0; i < part.length; i++) {
        // A chunk left as it was keeps its own offsets; one that changed is a single unit.
        first.push(part === match[0] ? match.index + i : match.index);
        last.push(part === match[0] ? match.index + i : match.index + match[0].length - 1);
      }
    }
    if (joined !== whole) {
      return pick(
        input,
        whole,
        () => 0,
        () => input.text.length - 1,
      );
    }
    return pick(
      input,
      whole,
      (i) => first[i]!,
      (i) => last[i]!,
    );
  };
  return { apply, align };
}

/** Output unit i came from input units first(i) to last(i). */
function pick(
  input: AlignedText,
  text: string,
  first: (i: number) => number,
  last: (i: number) => number,
): AlignedText {
  return {
    text,
    starts: Int32Array.from({ length: text.length }, (_, i) => input.starts[first(i)]!),
    ends: Int32Array.from({ length: text.length }, (_, i) => input.ends[last(i)]!),
  };
}
