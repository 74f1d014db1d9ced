import type { CudaDevice } from "./device.ts";
import type { DevicePointer } from "./driver.ts";
import type { Packing } from "./packing.ts";

/** Most sequences of a packing that there is room for here. */
export const MAX_SEQUENCES = 1024;
/** Arrays: lengths, and starts counted in elements of rows of different widths. */
const ARRAYS = 8;
const STRIDE = 4 * (MAX_SEQUENCES + 32);
const MAX_ELEMENTS = 2 ** 31;

/** Lengths and starts of a run's sequences in the card's memory, at addresses that stay the same from run to run. */
export class SequenceArrays {
  private readonly device: CudaDevice;
  private readonly base: DevicePointer;
  private readonly staging: { address: bigint; bytes: Uint8Array };
  /** Widths of rows that starts are counted in, in the order of their arrays. */
  private readonly widths: number[] = [];

  constructor(device: CudaDevice) {
    this.device = device;
    this.base = device.alloc(ARRAYS * STRIDE);
    this.staging = device.pinned(ARRAYS * STRIDE);
  }

  /** i32[batch]. */
  get lengths(): DevicePointer {
    return this.base;
  }

  /** i32[batch + 1]: where sequences start among rows of `width` elements. Null when there is no room or they are too far. */
  starts(width: number, tokens: number): DevicePointer | null {
    if (width * tokens >= MAX_ELEMENTS) return null;
    if (!this.widths.includes(width)) {
      if (this.widths.length === ARRAYS - 1) return null;
      this.widths.push(width);
    }
    return this.base + STRIDE * (1 + this.widths.indexOf(width));
  }

  /** Enqueue the arrays of a run before its first launch. The run before must have finished. */
  upload({ batch, starts, lengths, tokens }: Packing): void {
    if (batch > MAX_SEQUENCES) return;
    const { driver, stream } = this.device;
    const words = new Int32Array(this.staging.bytes.buffer, this.staging.bytes.byteOffset, (ARRAYS * STRIDE) / 4);
    words.set(lengths);
    this.widths.forEach((width, i) => {
      const at = ((i + 1) * STRIDE) / 4;
      for (let b = 0; b < batch; b++) words[at + b] = starts[b]! * width;
      words[at + batch] = tokens * width;
    });
    const bytes = (1 + this.widths.length) * STRIDE;
    driver.call("cuMemcpyHtoDAsync", this.base, this.staging.address, bytes, stream);
  }

  dispose(): void {
    this.device.freePinned(this.staging.address);
  }
}
