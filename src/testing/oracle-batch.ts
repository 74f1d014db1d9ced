import { type Batch, collate, type TokenizedRow } from "../data/index.ts";

/** Sequences and labels as the oracle's fixtures give them. */
export interface OracleBatch {
  readonly input_ids: number[][];
  readonly labels: number[][];
}

/** One microbatch of it, each sequence a row of its own. */
export function oracleBatch({ input_ids, labels }: OracleBatch): Batch {
  const rows = input_ids.map((ids, i): TokenizedRow[] => [
    { inputIds: Int32Array.from(ids), labels: Int32Array.from(labels[i]!) },
  ]);
  return collate(rows);
}
