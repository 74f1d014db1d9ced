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

/** Tokens [start, end) of a sequence, given by its index. */
export interface PackPart {
  sequence: number;
  start: number;
  end: number;
}

/** Which parts of which sequences make each packed row; 12 bytes a part. */
export class PackPlan {
  /** sequence, start, end of each part. */
  #parts = new Int32Array(3 * 1024);
  #count = 0;
  /** Of each row, one past its last part. */
  readonly #ends: number[] = [];

  /** Packed rows. */
  get length(): number {
    return this.#ends.length;
  }

  /** Tokens of a row. */
  lengthOf(row: number): number {
    return this.parts(row).reduce((sum, { start, end }) => sum + end - start, 0);
  }

  parts(row: number): PackPart[] {
    const end = this.#ends[row];
    if (end === undefined) throw new RangeError(`packed row: found index ${row}; expected one below ${this.length}`);
    const parts: PackPart[] = [];
    for (let at = 3 * (this.#ends[row - 1] ?? 0); at < 3 * end; at += 3) {
      parts.push({ sequence: this.#parts[at]!, start: this.#parts[at + 1]!, end: this.#parts[at + 2]! });
    }
    return parts;
  }

  push(parts: readonly PackPart[]): void {
    for (const { sequence, start, end } of parts) {
      const at = 3 * this.#count++;
      if (at === this.#parts.length) {
        const larger = new Int32Array(2 * at);
        larger.set(this.#parts);
        this.#parts = larger;
      }
      this.#parts.set([sequence, start, end], at);
    }
    this.#ends.push(this.#count);
  }
}

/**
 * Packs sequences, of which only the lengths are needed, into rows of at most `maxSeqLength` tokens. The parts of a row
 * stay separate sequences, which do not attend to one another (under `wrapped` too, where TRL lets them).
 */
export function planPacks(
  lengths: ArrayLike<number>,
  options: PackingOptions,
): { plan: PackPlan; report: PackingReport } {
  const { maxSeqLength, strategy = "bfd", batchRows = 1000 } = options;
  checkPositive("maxSeqLength", maxSeqLength);
  checkPositive("batchRows", batchRows);
  if (!PACKING_STRATEGIES.includes(strategy)) {
    throw new RangeError(`packing strategy: found "${strategy}"; expected one of ${PACKING_STRATEGIES.join(", ")}`);
  }
  const report: PackingReport = {
    sequences: lengths.length,
    packs: 0,
    tokens: 0,
    truncated: 0,
    tokensCut: 0,
    efficiency: 0,
  };
  const plan = new PackPlan();
  for (let first = 0; first < lengths.length; first += batchRows) {
    const batch: PackPart[] = [];
    for (let i = first; i < Math.min(first + batchRows, lengths.length); i++) {
      const length = lengths[i]!;
      const kept = strategy === "bfd" ? Math.min(length, maxSeqLength) : length;
      if (kept < length) report.truncated++;
      report.tokensCut += length - kept;
      report.tokens += kept;
      if (kept > 0) batch.push({ sequence: i, start: 0, end: kept });
    }
    for (const row of strategy === "wrapped" ? wrap(batch, maxSeqLength) : fit(batch, maxSeqLength)) plan.push(row);
  }
  report.packs = plan.length;
  report.efficiency = plan.length === 0 ? 0 : report.tokens / (plan.length * maxSeqLength);
  return { plan, report };
}

/** As `planPacks`, with the rows: `collate` takes them. The label of each part's first token is −100. */
export function pack(
  sequences: Iterable<TokenizedRow>,
  options: PackingOptions,
): { packs: TokenizedRow[][]; report: PackingReport } {
  const list = [...sequences];
  const lengths = list.map(({ inputIds }) => inputIds.length);
  const { plan, report } = planPacks(lengths, options);
  const rowOf = (sequence: number): TokenizedRow => list[sequence]!;
  return { packs: Array.from({ length: plan.length }, (_, i) => packedRow(plan, i, rowOf)), report };
}

/** A packed row: views of its sequences. The label of each part's first token is −100. */
export function packedRow(plan: PackPlan, row: number, rowOf: (sequence: number) => TokenizedRow): TokenizedRow[] {
  return plan.parts(row).map(({ sequence, start, end }) => {
    const { inputIds, labels } = rowOf(sequence);
    return withoutFirstLabel({ inputIds: inputIds.subarray(start, end), labels: labels.subarray(start, end) });
  });
}

/** Best fit decreasing, after cutting what is too long. */
function fit(parts: readonly PackPart[], maxSeqLength: number): PackPart[][] {
  return bestFitDecreasing(
    parts.flatMap((part) => cut(part, maxSeqLength)),
    maxSeqLength,
  );
}

/** Rows in the order they were opened; among rows with equal room, the one that has had it longest is filled. */
function bestFitDecreasing(parts: readonly PackPart[], maxSeqLength: number): PackPart[][] {
  const order = parts.toSorted((a, b) => b.end - b.start - (a.end - a.start));
  const rows: PackPart[][] = [];
  const byRoom = new Map<number, PackPart[][]>();
  const rooms = new RoomSet(maxSeqLength);
  for (const part of order) {
    const length = part.end - part.start;
    const room = rooms.atLeast(length);
    let row: PackPart[];
    if (room === -1) {
      row = [];
      rows.push(row);
    } else {
      const open = byRoom.get(room)!;
      row = open.shift()!;
      if (open.length === 0) rooms.delete(room);
    }
    row.push(part);
    const left = (room === -1 ? maxSeqLength : room) - length;
    if (left === 0) continue;
    const open = byRoom.get(left);
    if (open === undefined) byRoom.set(left, [row]);
    else open.push(row);
    rooms.add(left);
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

function wrap(parts: readonly PackPart[], maxSeqLength: number): PackPart[][] {
  const rows: PackPart[][] = [];
  let room = 0;
  for (const { sequence, end } of parts) {
    for (let start = 0; start < end; ) {
      if (room === 0) {
        rows.push([]);
        room = maxSeqLength;
      }
      const stop = Math.min(end, start + room);
      rows.at(-1)!.push({ sequence, start, end: stop });
      room -= stop - start;
      start = stop;
    }
  }
  return rows;
}

function cut({ sequence, end }: PackPart, maxSeqLength: number): PackPart[] {
  const parts: PackPart[] = [];
  for (let start = 0; start < end; start += maxSeqLength) {
    parts.push({ sequence, start, end: Math.min(end, start + maxSeqLength) });
  }
  return parts;
}

function withoutFirstLabel({ inputIds, labels }: TokenizedRow): TokenizedRow {
  if (labels[0] === IGNORE_INDEX) return { inputIds, labels };
  const masked = labels.slice();
  masked[0] = IGNORE_INDEX;
  return { inputIds, labels: masked };
}

function checkPositive(name: string, value: number): void {
  if (Number.isInteger(value) && value > 0) return;
  throw new RangeError(`${name}: found ${value}; expected a positive integer`);
}
