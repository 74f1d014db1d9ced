/** The block through which JavaScript and a running program talk: `RunControl` in native/engine.h. */

import { wordLetters } from "./runtime.ts";

export const CONTROL_BYTES = 24;

const FAULT = {
  truncated: 1,
  opcode: 2,
  arguments: 3,
  address: 4,
  workspace: 5,
  cancelled: 6,
  program: 7,
} as const;

/** A control block in any memory, shared or not. */
export class Control {
  readonly #words: Int32Array;
  readonly #longs: BigInt64Array;

  constructor(buffer: ArrayBufferLike, offset = 0) {
    this.#words = new Int32Array(buffer, offset, 2);
    this.#longs = new BigInt64Array(buffer, offset, 3);
  }

  reset(): void {
    this.#longs.fill(0n);
  }

  /** Asks the program to stop before its next instruction. */
  cancel(): void {
    Atomics.store(this.#words, 0, 1);
  }

  get cancelled(): boolean {
    return this.#words[1] === FAULT.cancelled;
  }

  /** The error of the run that ended, if it failed. */
  fault(kernels: readonly string[], signatures: readonly string[]): Error | undefined {
    const fault = this.#words[1]!;
    if (fault === 0) return undefined;
    const at = `instruction ${this.#longs[1]}`;
    const detail = this.#longs[2]!;
    switch (fault) {
      case FAULT.truncated:
        return new Error(`${at} of the program needs ${detail} words, but the program ends before`);
      case FAULT.opcode:
        return new Error(`${at} has opcode ${detail}; known are 0 to ${kernels.length - 1}`);
      case FAULT.arguments: {
        const opcode = Number(detail >> 32n);
        const takes = wordLetters(signatures[opcode]!).length;
        return new Error(`${at}, ${kernels[opcode]}, has ${detail & 0xffffffffn} arguments; it takes ${takes}`);
      }
      case FAULT.address:
        return new Error(`${at}: address ${detail} is in no allocated memory`);
      case FAULT.workspace:
        return new Error(`${at} needs ${detail} bytes of workspace inside one allocation; its workspace has not`);
      case FAULT.cancelled:
        return new Error(`the program was cancelled before ${at}`);
      default:
        return new Error(`the program at address ${detail} is not inside one allocation`);
    }
  }
}
