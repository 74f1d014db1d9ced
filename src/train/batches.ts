import type { Batch } from "../data/collate.ts";

/** Tokenised data, as microbatches of `batchSize` rows in an order that depends on the epoch only. */
export interface BatchSource {
  /** Rows. */
  readonly length: number;
  batches(epoch: number, batchSize: number): Iterable<Batch> | AsyncIterable<Batch>;
}

/** Microbatches in windows of `size` (the last of an epoch may be shorter), without the first `skip` windows. */
export async function* windows(
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  size: number,
  skip: number,
): AsyncGenerator<Batch[]> {
  let window: Batch[] = [];
  let done = 0;
  for await (const batch of batches) {
    window.push(batch);
    if (window.length < size) continue;
    if (done++ >= skip) yield window;
    window = [];
  }
  if (window.length > 0 && done >= skip) yield window;
}
