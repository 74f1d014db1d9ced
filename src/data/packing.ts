import { IGNORE_INDEX, type TokenizedRow } from "./collate.ts";

/**
 * How sequences share a packed row of `maxSeqLength` tokens, as in TRL:
 * - `bfd` (best fit decreasing): longest first, each into the fullest row it fits in; longer ones are truncated.
 * - `bfd_split`: the same, after cutting longer ones into several.
 * - `wrapped`: all of them end to end, cut every `maxSeqLength` tokens.
 */
export type PackingStrategy = "bfd" | "bfd_split" | "wrapped";

export const PACKING_STRATEGIES: readonly PackingStrategy[] = ["bfd", "bfd_split", "wrapped"];

export interface PackingOptions {
  maxSeqLength: number;
  /** Default "bfd". */
  strategy?: PackingStrategy;
  /** Sequences packed at a time, in the order they come. Default 1000, as TRL's. */
  batchRows?: number;
}

export interface PackingReport {
  /** Sequences in, and packed rows out. */
  sequences: number;
  packs: number;
  tokens: number;
  /** Sequences that `bfd` truncated, and the tokens that lost. */
  truncated: number;
  tokensCut: number;
  /** tokens / (packs · maxSeqLength): 1 when no row has room left. */
  efficiency: number;
}

/**
 * Packs sequences into rows of at most `maxSeqLength` tokens; `collate` takes the rows. The parts of a row stay separate
 * sequences, which do not attend to one another (under `wrapped` too, where TRL lets them), and the label of each one's
 * first token is −100.
 */
export function pack(
  sequences: Iterable<TokenizedRow>,
  options: PackingOptions,
): { packs: TokenizedRow[][]; report: PackingReport } {
  const { maxSeqLength, strategy = "bfd", batchRows = 1000 } = options;
  if (!Number.isInteger(maxSeqLength) || maxSeqLength < 1) {
    throw new RangeError(`maxSeqLength: found ${maxSeqLength}; expected a positive integer`);
  }
  if (!Number.isInteger(batchRows) || batchRows < 1) {
    throw new RangeError(`batchRows: found ${batchRows}; expected a positive integer`);
  }
  const report: PackingReport = { sequences: 0, packs: 0, tokens: 0, truncated: 0, tokensCut: 0, efficiency: 0 };
  const packs: TokenizedRow[][] = [];
  let batch: TokenizedRow[] = [];
  const packBatch = (): void => {
    const sequences = batch.filter(({ inputIds }) => inputIds.length > 0);
    const rows = packOne(sequences, maxSeqLength, strategy, report);
    for (const row of rows) packs.push(row.map(withoutFirstLabel));
    batch = [];
  };
  for (const sequence of sequences) {
    report.sequences++;
    batch.push(sequence);
    if (batch.length === batchRows) packBatch();
  }
  if (batch.length > 0) packBatch();
  report.packs = packs.length;
  for (const row of packs) for (const { inputIds } of row) report.tokens += inputIds.length;
  report.efficiency = packs.length === 0 ? 0 : report.tokens / (packs.length * maxSeqLength);
  return { packs, report };
}

function packOne(
  batch: readonly TokenizedRow[],
  maxSeqLength: number,
  strategy: PackingStrategy,
  report: PackingReport,
): TokenizedRow[][] {
  switch (strategy) {
    case "wrapped":
      return wrap(batch, maxSeqLength);
    case "bfd_split":
      return bestFitDecreasing(
        batch.flatMap((sequence) => cut(sequence, maxSeqLength)),
        maxSeqLength,
      );
    case "bfd":
      return bestFitDecreasing(
        batch.map((sequence) => {
          const excess = sequence.inputIds.length - maxSeqLength;
          if (excess <= 0) return sequence;
          report.truncated++;
          report.tokensCut += excess;
          return slice(sequence, 0, maxSeqLength);
        }),
        maxSeqLength,
      );
    default:
      throw new RangeError(`packing strategy: found "${strategy}"; expected one of ${PACKING_STRATEGIES.join(", ")}`);
  }
}

/** Rows in the order they were opened; among rows with equal room, the one that has had it longest is filled. */
function bestFitDecreasing(sequences: readonly TokenizedRow[], maxSeqLength: number): TokenizedRow[][] {
  const order = sequences.toSorted((a, b) => b.inputIds.length - a.inputIds.length);
  const rows: TokenizedRow[][] = [];
  const byRoom: TokenizedRow[][][] = Array.from({ length: maxSeqLength + 1 }, () => []);
  const rooms = new RoomSet(maxSeqLength);
  for (const sequence of order) {
    const length = sequence.inputIds.length;
    const room = rooms.atLeast(length);
    let row: TokenizedRow[];
    if (room === -1) {
      row = [];
      rows.push(row);
    } else {
      row = byRoom[room]!.shift()!;
      if (byRoom[room]!.length === 0) rooms.delete(room);
    }
    row.push(sequence);
    const left = (room === -1 ? maxSeqLength : room) - length;
    byRoom[left]!.push(row);
    if (left > 0) rooms.add(left);
  }
  return rows;
}

/** A set of integers from 1 to `max` that finds its least member from a bound up, a machine word at a time. */
class RoomSet {
  readonly #words: Int32Array;

  constructor(max: number) {
    this.#words = new Int32Array((max >>> 5) + 1);
  }

  add(value: number): void {
    this.#words[value >>> 5]! |= 1 << (value & 31);
  }

  delete(value: number): void {
    this.#words[value >>> 5]! &= ~(1 << (value & 31));
  }

  /** The least member ≥ `bound`, or −1. */
  atLeast(bound: number): number {
    let word = bound >>> 5;
    let bits = word < this.#words.length ? this.#words[word]! & (-1 << (bound & 31)) : 0;
    while (bits === 0) {
      if (++word >= this.#words.length) return -1;
      bits = this.#words[word]!;
    }
    return word * 32 + (31 - Math.clz32(bits & -bits));
  }
}

function wrap(sequences: readonly TokenizedRow[], maxSeqLength: number): TokenizedRow[][] {
  const rows: TokenizedRow[][] = [];
  let room = 0;
  for (const sequence of sequences) {
    for (let at = 0; at < sequence.inputIds.length; ) {
      if (room === 0) {
        rows.push([]);
        room = maxSeqLength;
      }
      const part = slice(sequence, at, at + room);
      rows.at(-1)!.push(part);
      at += part.inputIds.length;
      room -= part.inputIds.length;
    }
  }
  return rows;
}

function cut(sequence: TokenizedRow, maxSeqLength: number): TokenizedRow[] {
  const parts: TokenizedRow[] = [];
  for (let at = 0; at < sequence.inputIds.length; at += maxSeqLength) {
    parts.push(slice(sequence, at, at + maxSeqLength));
  }
  return parts;
}

/** A view, not a copy. */
function slice({ inputIds, labels }: TokenizedRow, start: number, end: number): TokenizedRow {
  return { inputIds: inputIds.subarray(start, end), labels: labels.subarray(start, end) };
}

function withoutFirstLabel({ inputIds, labels }: TokenizedRow): TokenizedRow {
  if (labels[0] === IGNORE_INDEX) return { inputIds, labels };
  const masked = labels.slice();
  masked[0] = IGNORE_INDEX;
  return { inputIds, labels: masked };
}
