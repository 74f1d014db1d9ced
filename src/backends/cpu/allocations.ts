/** Book-keeping of a runtime's allocations: sizes, interior addresses, peak. */

import type { Address, MemoryUse } from "./runtime.ts";
import { MAX_VIEW_BYTES } from "./runtime.ts";

export interface Allocation {
  readonly address: Address;
  readonly bytes: number;
}

export class Allocations {
  /** Sorted by address. */
  readonly #list: Allocation[] = [];
  #allocated = 0;
  #peak = 0;

  add(allocation: Allocation): void {
    this.#list.splice(this.#after(allocation.address), 0, allocation);
    this.#allocated += allocation.bytes;
    this.#peak = Math.max(this.#peak, this.#allocated);
  }

  /** Removes and answers the allocation that starts at the address. */
  remove(address: Address): Allocation {
    const index = this.#after(address) - 1;
    const found = this.#list[index];
    if (found?.address !== address) throw new Error(`address ${address} was not allocated here, or is free already`);
    this.#list.splice(index, 1);
    this.#allocated -= found.bytes;
    return found;
  }

  /** The allocation that holds all of [address, address + bytes). */
  holding(address: Address, bytes: number): Allocation {
    if (!Number.isSafeInteger(bytes) || bytes < 0 || bytes > MAX_VIEW_BYTES) {
      throw new RangeError(`a view has 0 to ${MAX_VIEW_BYTES} bytes, not ${bytes}: view a larger range in parts`);
    }
    const found = this.#list[this.#after(address) - 1];
    if (!found || address + bytes > found.address + found.bytes) {
      throw new RangeError(`${bytes} bytes at address ${address} are not inside one allocation`);
    }
    return found;
  }

  all(): readonly Allocation[] {
    return this.#list;
  }

  clear(): void {
    this.#list.length = 0;
    this.#allocated = 0;
  }

  use(): MemoryUse {
    return { allocated: this.#allocated, peak: this.#peak };
  }

  /** Index of the first allocation with a greater address. */
  #after(address: Address): number {
    let low = 0;
    let high = this.#list.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#list[middle]!.address <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Bytes as a size a person reads: "1.5 GiB". */
export function formatBytes(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = bytes;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** Throws a RangeError unless bytes is a size that can be asked for. */
export function checkSize(bytes: number): void {
  if (!Number.isSafeInteger(bytes) || bytes < 0) throw new RangeError(`cannot allocate ${bytes} bytes`);
}
