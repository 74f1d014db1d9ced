/** How a batch's tokens fall into sequences, as the host sees it: what attention by a library depends on. */
export interface Packing {
  /** Packings of one class run the same plans; this names the class. */
  readonly key: string;
  /** T. */
  readonly tokens: number;
  /** Sequences that there is room for, at least as many as there are of two tokens or more. */
  readonly batch: number;
  /** Tokens that each has room for. */
  readonly length: number;
  /** Whether sequences are of equal lengths, `batch` of `length` tokens that fill the stream. */
  readonly equal: boolean;
  /** Longest sequence. */
  readonly longest: number;
  /** i32[batch]: where sequences of two tokens or more start, in order, and their lengths; past the last: T, and 0. */
  readonly starts: Int32Array;
  readonly lengths: Int32Array;
}

/** Lengths that equal sequences must be a multiple of; others run as sequences of any length. */
const EQUAL_STEP = 128;
const SHORTEST = 128;

const powerAtLeast = (n: number): number => 2 ** Math.ceil(Math.log2(n));

/**
 * The packing of tokens whose sequences are [seqStart[t], seqEnd[t]). Room is rounded up to powers of two so that few
 * classes come up. Null when the arrays are not sequences one after another, or when none has two tokens.
 */
export function packingOf(seqStart: Int32Array, seqEnd: Int32Array): Packing | null {
  const tokens = seqStart.length;
  const found: [number, number][] = [];
  let longest = 0;
  let equal = true;
  for (let t = 0; t < tokens; ) {
    const end = seqEnd[t]!;
    if (seqStart[t] !== t || end <= t || end > tokens) return null;
    for (let u = t + 1; u < end; u++) if (seqStart[u] !== t || seqEnd[u] !== end) return null;
    const length = end - t;
    if (found.length > 0 && length !== longest) equal = false;
    longest = Math.max(longest, length);
    if (length > 1) found.push([t, length]);
    t = end;
  }
  if (longest < 2) return null;
  equal &&= longest % EQUAL_STEP === 0 && found.length * longest === tokens;
  const batch = equal ? found.length : powerAtLeast(found.length);
  const length = equal ? longest : Math.max(SHORTEST, powerAtLeast(longest));
  const starts = new Int32Array(batch).fill(tokens);
  const lengths = new Int32Array(batch);
  found.forEach(([start, size], i) => {
    starts[i] = start;
    lengths[i] = size;
  });
  const key = `${equal ? "equal" : "ragged"}:${batch}x${length}`;
  return { key, tokens, batch, length, equal, longest, starts, lengths };
}
