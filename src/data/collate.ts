/** Marks a token that is not trained on, as in PyTorch and transformers. */
export const IGNORE_INDEX = -100;

/** One tokenized sequence: equally long ids and labels. A label is the token's own id, or −100. */
export interface TokenizedRow {
  inputIds: Int32Array;
  labels: Int32Array;
}

/**
 * A microbatch: one stream of T tokens that holds all its sequences end to end. No token attends outside its own
 * sequence. Padding, at the end, is sequences of one token each, with no target.
 */
export interface Batch {
  /** i32[T]. */
  readonly inputIds: Int32Array;
  /** i32[T]: position in its sequence, from 0. */
  readonly positions: Int32Array;
  /** i32[T]: index of the first token of the sequence that the token belongs to, and one past its last. */
  readonly seqStart: Int32Array;
  readonly seqEnd: Int32Array;
  /** i32[T], shifted: what the token should predict, the label of the next one; −100 at a sequence's last token. */
  readonly labels: Int32Array;
  /** How many labels are not −100. */
  readonly numTargets: number;
  /** How many tokens are not padding. */
  readonly numTokens: number;
  /** What the batch counts for in the mean over a window: `numTargets` when left out; pairs, for preference data. */
  readonly weight?: number;
  /** Which update of its step the batch is for, where a step makes several (PPO); batches of one follow one another. */
  readonly update?: number;
  /** Further arrays for a loss, by name (`LossContext.input`). */
  readonly inputs?: Readonly<Record<string, BatchInput>>;
}

/** An array that goes with a batch. */
export interface BatchInput {
  readonly data: Float32Array | Int32Array;
  readonly shape: readonly number[];
}

/** A vector as an array that goes with a batch. */
export const vectorInput = (data: Float32Array | Int32Array): BatchInput => ({ data, shape: [data.length] });

/** What a batch counts for in the mean over a window. */
export const batchWeight = ({ weight, numTargets }: Batch): number => weight ?? numTargets;

/**
 * Lays rows out as one batch. A row is the sequences packed together in it (one, without packing).
 *
 * @param bucket T, at least the number of tokens; by default `bucketLength` of it
 * @param padId a valid token id for padding; it is never trained on, nor seen by other tokens
 */
export function collate(rows: readonly (readonly TokenizedRow[])[], bucket?: number, padId = 0): Batch {
  let numTokens = 0;
  for (const row of rows) {
    for (const { inputIds, labels } of row) {
      if (inputIds.length !== labels.length) {
        throw new RangeError(`collate: found ${inputIds.length} ids with ${labels.length} labels; expected as many`);
      }
      numTokens += inputIds.length;
    }
  }
  const length = bucket ?? bucketLength(numTokens);
  if (length < numTokens) throw new RangeError(`collate: found ${numTokens} tokens; expected at most ${length}`);
  const inputIds = new Int32Array(length).fill(padId);
  const positions = new Int32Array(length);
  const seqStart = new Int32Array(length);
  const seqEnd = new Int32Array(length);
  const labels = new Int32Array(length).fill(IGNORE_INDEX);
  let numTargets = 0;
  let at = 0;
  for (const row of rows) {
    for (const sequence of row) {
      const end = at + sequence.inputIds.length;
      inputIds.set(sequence.inputIds, at);
      // The first label is dropped: nothing in the sequence predicts its first token.
      labels.set(sequence.labels.subarray(1), at);
      for (let t = at; t < end; t++) {
        positions[t] = t - at;
        seqStart[t] = at;
        seqEnd[t] = end;
        if (labels[t] !== IGNORE_INDEX) numTargets++;
      }
      at = end;
    }
  }
  for (let t = at; t < length; t++) {
    seqStart[t] = t;
    seqEnd[t] = t + 1;
  }
  return { inputIds, positions, seqStart, seqEnd, labels, numTargets, numTokens };
}

/**
 * A batch length for `n` tokens: rounded up to a multiple of `multiple`, and beyond 8·multiple to an eighth of the power
 * of two below it, so that few lengths (each needs its own program) come up, for at most 12.5% of padding.
 */
export function bucketLength(n: number, multiple = 64): number {
  const wanted = Math.max(1, n);
  const eighth = 2 ** (Math.floor(Math.log2(wanted)) - 3);
  const step = multiple * Math.max(1, Math.floor(eighth / multiple));
  return Math.ceil(wanted / step) * step;
}
