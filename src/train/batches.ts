import type { Batch } from "../data/collate.ts";

/** Tokenised data, as microbatches of `batchSize` rows in an order that depends on the epoch only. */
export interface BatchSource {
  /** Rows. */
  readonly length: number;
  batches(epoch: number, batchSize: number): Iterable<Batch> | AsyncIterable<Batch>;
}

export const isBatchSource = (value: unknown): value is BatchSource =>
  typeof value === "object" && value !== null && "batches" in value && typeof value.batches === "function";

/** How an epoch is cut. */
export interface WindowOptions {
  /** Microbatches of a window, whose gradients make one step; an epoch's last window may be shorter. */
  readonly size: number;
  /** Microbatches of the epoch; those that come after are left out. */
  readonly microbatches: number;
  /** Microbatches to leave out at the start: done before a resume. */
  readonly skip: number;
}

/** An epoch's microbatches in windows. */
export async function* windows(
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  { size, microbatches, skip }: WindowOptions,
): AsyncGenerator<Batch[]> {
  if (skip >= microbatches) return;
  let window: Batch[] = [];
  let seen = 0;
  for await (const batch of batches) {
    seen++;
    if (seen > skip) window.push(batch);
    if (window.length === size || seen === microbatches) {
      if (window.length > 0) yield window;
      window = [];
    }
    if (seen === microbatches) return;
  }
  if (window.length > 0) yield window;
}
