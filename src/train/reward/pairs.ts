import { type Batch, collate, IGNORE_INDEX, type TokenizedRow, vectorInput } from "../../data/collate.ts";
import { Sampler } from "../../data/index.ts";
import type { BatchSource } from "../batches.ts";

/** Two whole tokenised answers to one prompt, the first the better one. */
export interface RewardPair {
  readonly chosenIds: Int32Array;
  readonly rejectedIds: Int32Array;
  /** By how much the chosen one should be better; 0 when left out. */
  readonly margin?: number | undefined;
}

/** Pairs as microbatches: the chosen sequences of a batch, then the rejected ones, in one packed stream. */
export class RewardPairSource implements BatchSource {
  private readonly pairs: readonly RewardPair[];
  private readonly order: { readonly shuffle: boolean; readonly seed: number };

  constructor(pairs: readonly RewardPair[], order: { readonly shuffle: boolean; readonly seed: number }) {
    this.pairs = pairs;
    this.order = order;
  }

  get length(): number {
    return this.pairs.length;
  }

  *batches(epoch: number, batchSize: number): Generator<Batch> {
    const { length } = this;
    const sampler = Sampler.fromState({ length, ...this.order, epoch, position: 0 }, length);
    const indices = sampler.nextBatch(length);
    for (let at = 0; at < length; at += batchSize) {
      yield collatePairs(Array.from(indices.slice(at, at + batchSize), (index) => this.pairs[index]!));
    }
  }
}

/** One microbatch of pairs; it weighs as many as there are. */
export function collatePairs(pairs: readonly RewardPair[]): Batch {
  const sequences = [...pairs.map(({ chosenIds }) => chosenIds), ...pairs.map(({ rejectedIds }) => rejectedIds)];
  let end = 0;
  const last = sequences.map(({ length }) => {
    end += length;
    return end - 1;
  });
  return {
    ...collate(sequences.map((ids) => [untrained(ids)])),
    weight: pairs.length,
    inputs: {
      chosen: vectorInput(Int32Array.from(last.slice(0, pairs.length))),
      rejected: vectorInput(Int32Array.from(last.slice(pairs.length))),
      margin: vectorInput(Float32Array.from(pairs, ({ margin = 0 }) => margin)),
    },
  };
}

/** A sequence of which no token is predicted. */
export const untrained = (inputIds: Int32Array): TokenizedRow => ({
  inputIds,
  labels: new Int32Array(inputIds.length).fill(IGNORE_INDEX),
});
