import { Rng } from "../util/rng.ts";

/** Where a sampler stands, fit for JSON. */
export interface SamplerState {
  length: number;
  seed: number;
  shuffle: boolean;
  /** Epochs finished, and rows of the one at hand already given. */
  epoch: number;
  position: number;
}

export interface SamplerOptions {
  seed: number;
  /** A new random order each epoch (default), or the data set's. */
  shuffle?: boolean;
}

/**
 * Row indices, epoch after epoch without end; every row once in each. The order of an epoch depends on seed and epoch
 * only, so a restored sampler goes on exactly where it was.
 */
export class Sampler {
  readonly length: number;
  readonly #seed: number;
  readonly #shuffle: boolean;
  #epoch = 0;
  #position = 0;
  #order: Uint32Array;

  constructor(length: number, { seed, shuffle = true }: SamplerOptions) {
    if (!Number.isInteger(length) || length < 1) {
      throw new RangeError(`sampler: found ${length} rows; expected at least one`);
    }
    this.length = length;
    this.#seed = seed;
    this.#shuffle = shuffle;
    this.#order = this.#orderOf(0);
  }

  /** Throws `RangeError` if the state is of another number of rows, or no state at all. */
  static fromState(state: SamplerState, length: number): Sampler {
    if (state.length !== length) {
      throw new RangeError(`sampler state: found ${state.length} rows; expected ${length}: the data set has changed`);
    }
    const sampler = new Sampler(state.length, state);
    const { epoch, position } = state;
    if (!Number.isInteger(epoch) || epoch < 0 || !Number.isInteger(position) || position < 0 || position >= length) {
      throw new RangeError(`sampler state: found epoch ${epoch}, position ${position}; expected a row below ${length}`);
    }
    sampler.#epoch = epoch;
    sampler.#position = position;
    sampler.#order = sampler.#orderOf(epoch);
    return sampler;
  }

  state(): SamplerState {
    return {
      length: this.length,
      seed: this.#seed,
      shuffle: this.#shuffle,
      epoch: this.#epoch,
      position: this.#position,
    };
  }

  /** Epochs finished, with the fraction of the one at hand. */
  get epoch(): number {
    return this.#epoch + this.#position / this.length;
  }

  next(): number {
    const index = this.#order[this.#position]!;
    this.#position++;
    if (this.#position === this.length) {
      this.#epoch++;
      this.#position = 0;
      this.#order = this.#orderOf(this.#epoch);
    }
    return index;
  }

  /** Up to `size` indices of the same epoch: fewer at its end. */
  nextBatch(size: number): number[] {
    const count = Math.min(size, this.length - this.#position);
    return Array.from({ length: count }, () => this.next());
  }

  #orderOf(epoch: number): Uint32Array {
    if (!this.#shuffle) return Uint32Array.from({ length: this.length }, (_, i) => i);
    // One stream a seed and epoch: the seed's first number in the high bits, the epoch in the low 20.
    const base = new Rng(this.#seed).uint32();
    return new Rng(base * 2 ** 20 + (epoch % 2 ** 20)).permutation(this.length);
  }
}
