import type { Batch } from "../data/collate.ts";

/** Tokenised data, as microbatches of `batchSize` rows in an order that depends on the epoch only. */
export interface BatchSource {
  /** Rows. */
  readonly length: number;
  /** @param skip microbatches that a resumed run has done already; only sources with `seeks` leave them out themselves */
  batches(epoch: number, batchSize: number, skip?: number): Iterable<Batch> | AsyncIterable<Batch>;
  /** It begins after `skip` (rollouts cannot be made again just to be dropped); others are read and dropped. */
  readonly seeks?: boolean;
  /** Microbatches of a step, where those are not gradientAccumulationSteps. */
  readonly windowSize?: number;
  /** What a checkpoint must hold for the source to go on as if it had not stopped, as plain JSON. */
  state?(): unknown;
  /** Go on from `state`; called before `batches`. `file` is for errors. */
  restore?(state: unknown, file: string): void;
}

export const isBatchSource = (value: unknown): value is BatchSource =>
  typeof value === "object" && value !== null && "batches" in value && typeof value.batches === "function";

/** How an epoch is cut. */
export interface WindowOptions {
  /** Microbatches of a window, whose gradients make one step; an epoch's last window may be shorter. */
  readonly size: number;
  /** Microbatches of the epoch; those that come after are left out. */
  readonly microbatches: number;
  /** Microbatches done before a resume. */
  readonly skip: number;
}

/**
 * An epoch's microbatches in windows. The source is not asked for a window before the last one has been taken: what it
 * makes may depend on the step between them.
 */
export async function* windows(
  source: BatchSource,
  { epoch, batchSize, size, microbatches, skip }: WindowOptions & { epoch: number; batchSize: number },
): AsyncGenerator<Batch[]> {
  if (skip >= microbatches) return;
  let window: Batch[] = [];
  let seen = source.seeks ? skip : 0;
  for await (const batch of source.batches(epoch, batchSize, skip)) {
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

/** A window's microbatches by the update they are for: one, unless they say otherwise. */
export function updatesOf(window: readonly Batch[]): Batch[][] {
  const updates: Batch[][] = [];
  for (const [i, batch] of window.entries()) {
    if (i > 0 && batch.update === window[i - 1]!.update) updates.at(-1)!.push(batch);
    else updates.push([batch]);
  }
  return updates;
}
