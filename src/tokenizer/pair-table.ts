/**
 * A fixed map from a pair of token ids to (rank, merged id), in flat arrays: 280,000 merges take 16 MiB and no
 * garbage-collected objects. Open addressing, load at most one half.
 */
export class PairTable {
  /** By slot, as returned by `find`. */
  readonly rank: Int32Array;
  readonly merged: Int32Array;
  readonly #left: Int32Array;
  readonly #right: Int32Array;
  readonly #shift: number;

  constructor(pairs: number) {
    const bits = Math.max(4, Math.ceil(Math.log2(Math.max(1, pairs) * 2)));
    this.#shift = 32 - bits;
    this.#left = new Int32Array(2 ** bits).fill(-1);
    this.#right = new Int32Array(2 ** bits);
    this.rank = new Int32Array(2 ** bits);
    this.merged = new Int32Array(2 ** bits);
  }

  /** Adds a pair, or replaces its values. Never call it more than `pairs` times. */
  set(left: number, right: number, rank: number, merged: number): void {
    let slot = this.#hash(left, right);
    while (this.#left[slot] !== -1 && !(this.#left[slot] === left && this.#right[slot] === right)) {
      slot = (slot + 1) & (this.#left.length - 1);
    }
    this.#left[slot] = left;
    this.#right[slot] = right;
    this.rank[slot] = rank;
    this.merged[slot] = merged;
  }

  /** The pair's slot in `rank` and `merged`, or −1. */
  find(left: number, right: number): number {
    let slot = this.#hash(left, right);
    for (;;) {
      const key = this.#left[slot];
      if (key === -1) return -1;
      if (key === left && this.#right[slot] === right) return slot;
      slot = (slot + 1) & (this.#left.length - 1);
    }
  }

  #hash(left: number, right: number): number {
    const mixed = Math.imul(Math.imul(left, 0x9e3779b1) + right, 0x85ebca6b);
    return (mixed ^ (mixed >>> 15)) >>> this.#shift;
  }
}
