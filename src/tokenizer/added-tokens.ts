import type { AddedToken } from "./tokenizer-json.ts";

/** A stretch of text: an added token (`id` ≥ 0) or ordinary text (`id` −1). Offsets in UTF-16 units. */
export interface Segment {
  start: number;
  end: number;
  id: number;
}

/**
 * Finds added tokens in a text: leftmost first, the longest of those that start there. `lstrip` and `rstrip` widen a
 * match over whitespace (never into the match before); `single_word` rejects one that touches a word character.
 * Same results as `AddedVocabulary` of Hugging Face tokenizers 0.23.
 */
export class AddedTokenSplitter {
  readonly #tokens = new Map<string, AddedToken>();
  readonly #pattern: RegExp | null;

  constructor(tokens: Iterable<readonly [content: string, token: AddedToken]>) {
    for (const [content, token] of tokens) if (content !== "") this.#tokens.set(content, token);
    // An alternation tries its branches in order, so longest first finds the longest.
    const contents = [...this.#tokens.keys()].sort((a, b) => b.length - a.length);
    this.#pattern = contents.length === 0 ? null : new RegExp(contents.map(escapeRegExp).join("|"), "g");
  }

  /** Segments that cover `text` from end to end, in order, none empty; they overlap only where an `rstrip` took a token. */
  split(text: string): Segment[] {
    const segments: Segment[] = [];
    let done = 0;
    if (this.#pattern !== null) {
      for (const match of text.matchAll(this.#pattern)) {
        const token = this.#tokens.get(match[0])!;
        let start = match.index;
        let end = start + match[0].length;
        if (token.single_word && (touchesWordBefore(text, start) || touchesWordAfter(text, end))) continue;
        if (token.lstrip) while (start > done && isWhiteSpace(text.charCodeAt(start - 1))) start--;
        if (token.rstrip) while (end < text.length && isWhiteSpace(text.charCodeAt(end))) end++;
        if (start > done) segments.push({ start: done, end: start, id: -1 });
        // A whitespace token inside what an rstrip before it took counts again, as in Hugging Face tokenizers.
        segments.push({ start, end, id: token.id });
        done = end;
      }
    }
    if (done < text.length) segments.push({ start: done, end: text.length, id: -1 });
    return segments;
  }
}

export function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
}

/** Unicode's White_Space property (JavaScript's \s lacks U+0085 and adds U+FEFF); all of it is in the BMP. */
export function isWhiteSpace(unit: number): boolean {
  if (unit < 0x80) return unit === 32 || (unit >= 9 && unit <= 13);
  return (
    unit === 0x85 ||
    unit === 0xa0 ||
    unit === 0x1680 ||
    (unit >= 0x2000 && unit <= 0x200a) ||
    unit === 0x2028 ||
    unit === 0x2029 ||
    unit === 0x202f ||
    unit === 0x205f ||
    unit === 0x3000
  );
}

const WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;

function touchesWordBefore(text: string, at: number): boolean {
  if (at === 0) return false;
  const low = text.charCodeAt(at - 1);
  return WORD.test(low >= 0xdc00 && low < 0xe000 ? text.slice(at - 2, at) : text[at - 1]!);
}

function touchesWordAfter(text: string, at: number): boolean {
  return at < text.length && WORD.test(text.slice(at, at + 2));
}
