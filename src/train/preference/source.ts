import type { Batch } from "../../data/collate.ts";
import type { BatchSource } from "../batches.ts";
import { type RowOrder, TokenizedSource } from "../tokenized-source.ts";

/** How items become batches. */
export interface ItemBatches<T> {
  /** Tokens of an item, all its sequences together. */
  readonly tokens: (item: T) => number;
  /** Tokens of its plain next-token loss. */
  readonly plainTokens: (item: T) => number;
  /** @param tokenScale items for each plain token of the window */
  readonly collate: (items: readonly T[], tokenScale: number) => Batch;
}

/** Where an epoch's windows end, as the training loop cuts them. */
export interface Windows {
  /** Microbatches of a window; infinity: all of an epoch, for an evaluation. */
  readonly size: number;
  /** Leave a short last microbatch out. */
  readonly dropLast: boolean;
}

/**
 * Items (pairs, labelled answers) in an order that depends on seed and epoch only. Batches know the items and tokens of
 * their whole window: a loss of both kinds of means does not depend on how the window is cut into microbatches.
 */
export class ItemSource<T> implements BatchSource {
  readonly items: T[];
  private readonly how: ItemBatches<T>;
  private readonly windows: Windows;
  private readonly order: TokenizedSource;

  constructor(items: readonly T[], how: ItemBatches<T>, order: RowOrder, windows: Windows) {
    this.items = [...items];
    this.how = how;
    this.windows = windows;
    const rows = { length: items.length, lengthOf: (index: number) => how.tokens(items[index]!), get: () => [] };
    this.order = new TokenizedSource(rows, order);
  }

  get length(): number {
    return this.items.length;
  }

  *batches(epoch: number, batchSize: number): Generator<Batch> {
    const indices = this.indices(epoch);
    const { size, dropLast } = this.windows;
    const end = dropLast ? indices.length - (indices.length % batchSize) : indices.length;
    const step = Math.min(size * batchSize, Math.max(1, end));
    for (let start = 0; start < end; start += step) {
      const window = Array.from(indices.subarray(start, Math.min(end, start + step)), (index) => this.items[index]!);
      const tokens = window.reduce((sum, item) => sum + this.how.plainTokens(item), 0);
      for (let at = 0; at < window.length; at += batchSize) {
        yield this.how.collate(window.slice(at, at + batchSize), window.length / tokens);
      }
    }
  }

  /** Item numbers in the order of an epoch. */
  indices(epoch: number): Uint32Array {
    return this.order.indices(epoch);
  }
}
