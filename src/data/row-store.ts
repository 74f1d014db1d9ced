import type { TokenizedRow } from "./collate.ts";
import { type PackPlan, packedRow } from "./packing.ts";

/** Tokenized rows, in memory or on disk. */
export interface RowStore {
  readonly length: number;
  /** Tokens of a row. */
  lengthOf(index: number): number;
  /** Throws `RangeError` where there is no such row. */
  get(index: number): TokenizedRow;
}

/** What goes into batches: rows of one sequence, or of several packed together. */
export interface PackedRows {
  readonly length: number;
  /** Tokens of a row, all its sequences together. */
  lengthOf(index: number): number;
  get(index: number): readonly TokenizedRow[];
}

export function memoryStore(rows: readonly TokenizedRow[]): RowStore {
  const get = (index: number): TokenizedRow => {
    const row = rows[index];
    if (row === undefined) throw new RangeError(`row: found index ${index}; expected one below ${rows.length}`);
    return row;
  };
  return { length: rows.length, lengthOf: (index) => get(index).inputIds.length, get };
}

/** A store's rows one by one, or packed as planned. They are read when asked for. */
export function packedRows(store: RowStore, plan: PackPlan | null): PackedRows {
  if (plan === null) {
    return { length: store.length, lengthOf: (index) => store.lengthOf(index), get: (index) => [store.get(index)] };
  }
  return {
    length: plan.length,
    lengthOf: (index) => plan.lengthOf(index),
    get: (index) => packedRow(plan, index, (sequence) => store.get(sequence)),
  };
}
