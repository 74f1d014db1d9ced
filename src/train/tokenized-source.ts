import { type Batch, collate, Sampler, type TokenizedRow } from "../data/index.ts";
import type { BatchSource } from "./batches.ts";

/** Rows by index, in memory or not: each is the sequences packed together in it. */
export interface IndexedRows {
  readonly length: number;
  /** Tokens of a row. */
  lengthOf(index: number): number;
  get(index: number): readonly TokenizedRow[];
}

export interface RowOrder {
  readonly strategy: "random" | "sequential" | "group_by_length";
  readonly seed: number;
  /** Rows of one optimizer step, for group_by_length. */
  readonly rowsPerStep: number;
}

/** Mega-batches of group_by_length are this many steps long, or a quarter of the data if that is less (transformers). */
const MEGA_BATCH_STEPS = 50;

/** Tokenised rows in an order that depends on seed and epoch only, so that a resumed training meets the same ones. */
export class TokenizedSource implements BatchSource {
  private readonly rows: IndexedRows;
  private readonly order: RowOrder;

  constructor(rows: IndexedRows | readonly (readonly TokenizedRow[])[], order: RowOrder) {
    this.rows = "lengthOf" in rows ? rows : indexed(rows);
    this.order = order;
  }

  get length(): number {
    return this.rows.length;
  }

  *batches(epoch: number, batchSize: number): Generator<Batch> {
    const indices = this.indices(epoch);
    for (let at = 0; at < indices.length; at += batchSize) {
      yield collate(Array.from(indices.subarray(at, at + batchSize), (index) => this.rows.get(index)));
    }
  }

  /** Row numbers in the order of an epoch. */
  indices(epoch: number): Uint32Array {
    const { length } = this;
    const { seed, strategy, rowsPerStep } = this.order;
    const sampler = Sampler.fromState({ length, seed, shuffle: strategy !== "sequential", epoch, position: 0 }, length);
    const indices = Uint32Array.from(sampler.nextBatch(length));
    return strategy === "group_by_length" ? this.grouped(indices, rowsPerStep) : indices;
  }

  /**
   * Batches of rows of similar length (transformers' LengthGroupedSampler): the shuffled rows in mega-batches, each
   * sorted by falling length, and the longest row of all first, so that what needs most memory comes at once.
   */
  private grouped(shuffled: Uint32Array, rowsPerStep: number): Uint32Array {
    const steps = Math.min(Math.floor(shuffled.length / (4 * rowsPerStep)), MEGA_BATCH_STEPS);
    const size = Math.max(1, steps) * rowsPerStep;
    let longest = 0;
    for (let at = 0; at < shuffled.length; at += size) {
      shuffled.subarray(at, at + size).sort((a, b) => this.rows.lengthOf(b) - this.rows.lengthOf(a));
      if (this.rows.lengthOf(shuffled[at]!) > this.rows.lengthOf(shuffled[longest]!)) longest = at;
    }
    [shuffled[0], shuffled[longest]] = [shuffled[longest]!, shuffled[0]!];
    return shuffled;
  }
}

function indexed(rows: readonly (readonly TokenizedRow[])[]): IndexedRows {
  return {
    length: rows.length,
    lengthOf: (index) => rows[index]!.reduce((sum, { inputIds }) => sum + inputIds.length, 0),
    get: (index) => rows[index]!,
  };
}
