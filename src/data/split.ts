import { FormatError, show } from "../formats/errors.ts";

/** A part of a data set's split: Hugging Face's "train[:1000]", "train[10%:20%]", "test[-50:]". */
export interface SplitSlice {
  split: string;
  start: string;
  end: string;
}

/** Null for a split without a slice. Throws `FormatError` at a malformed one. */
export function parseSplit(split: string | undefined): SplitSlice | null {
  if (split?.includes("[") !== true) return null;
  const match = /^([^[\]]+)\[(-?\d+%?|):(-?\d+%?|)\]$/.exec(split);
  if (match !== null) return { split: match[1]!, start: match[2]!, end: match[3]! };
  throw new FormatError({ field: "split", found: show(split), expected: '"train[:1000]" or "train[10%:20%]"' });
}

/** The rows [start, end) that a slice names, of `length`; counts and shares past the ends are cut, as Python's. */
export function sliceRange({ start, end }: SplitSlice, length: number): [number, number] {
  const at = (bound: string, otherwise: number): number => {
    if (bound === "") return otherwise;
    const value = bound.endsWith("%") ? Math.round((Number(bound.slice(0, -1)) / 100) * length) : Number(bound);
    return Math.min(length, Math.max(0, value < 0 ? length + value : value));
  };
  const from = at(start, 0);
  return [from, Math.max(from, at(end, length))];
}
