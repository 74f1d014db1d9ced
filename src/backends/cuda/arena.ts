import type { Value } from "../../graph/graph.ts";
import type { Program } from "../../graph/program.ts";
import type { CudaDevice } from "./device.ts";
import type { DevicePointer } from "./driver.ts";
import { CudaOutOfMemoryError } from "./errors.ts";

interface Pinned {
  readonly address: bigint;
  readonly size: number;
  /** Its content for the host; none of the pool that activations are offloaded to, which may be larger than arrays can be. */
  readonly bytes: Uint8Array;
}

/** Bytes of each kind of memory. */
interface Needs {
  readonly arena: number;
  readonly host: number;
  readonly inputs: number;
  readonly outputs: number;
}

const NO_NEEDS: Needs = { arena: 0, host: 0, inputs: 0, outputs: 0 };
const NO_BYTES = new Uint8Array(0);
const NOTHING: Pinned = { address: 0n, size: 0, bytes: NO_BYTES };

/**
 * The memory that all programs of a device share, one after another: activations on the card, page-locked host memory for
 * offloaded ones, and staging for inputs and outputs. As large as the largest program; programs find out by `generation`
 * that it moved.
 */
export class Arena {
  base: DevicePointer = 0;
  bytes = 0;
  host: Pinned = NOTHING;
  inputs: Pinned = NOTHING;
  outputs: Pinned = NOTHING;
  generation = 0;
  private readonly device: CudaDevice;
  private wanted = NO_NEEDS;
  private tail: Promise<unknown> = Promise.resolve();

  constructor(device: CudaDevice) {
    this.device = device;
  }

  /** Make sure that there is room for a program when one next runs. */
  reserve(program: Program): void {
    this.wanted = most(this.wanted, needsOf(program));
  }

  /**
   * Run `body` when nothing else uses the arena, with room for `program`. Throws CudaOutOfMemoryError when there is none;
   * programs that need less still run then.
   */
  exclusive<T>(body: () => Promise<T>, program?: Program): Promise<T> {
    const result = this.tail.then(() => {
      if (program) this.reserve(program);
      try {
        this.grow();
      } catch (error) {
        // Other programs' needs may be what does not fit: forget them and try this one's.
        this.wanted = most(this.sizes(), program ? needsOf(program) : NO_NEEDS);
        if (!(error instanceof CudaOutOfMemoryError)) throw error;
        this.grow();
      }
      return body();
    });
    this.tail = result.catch(() => undefined);
    return result;
  }

  dispose(): void {
    for (const { address } of [this.host, this.inputs, this.outputs]) if (address) this.device.freePinned(address);
    if (this.base) this.device.free(this.base);
    [this.host, this.inputs, this.outputs, this.base, this.bytes] = [NOTHING, NOTHING, NOTHING, 0, 0];
  }

  private sizes(): Needs {
    const { bytes, host, inputs, outputs } = this;
    return { arena: bytes, host: host.size, inputs: inputs.size, outputs: outputs.size };
  }

  // Only between runs: a running program's memory must not move.
  private grow(): void {
    const { device, wanted } = this;
    if (wanted.arena > this.bytes) {
      if (this.base) device.free(this.base);
      [this.base, this.bytes] = [0, 0];
      this.generation++;
      this.base = device.alloc(wanted.arena);
      this.bytes = wanted.arena;
    }
    for (const key of ["host", "inputs", "outputs"] as const) {
      const size = wanted[key];
      if (size <= this[key].size) continue;
      if (this[key].address) device.freePinned(this[key].address);
      this[key] = NOTHING;
      if (key === "host") this.generation++;
      const address = device.allocPinned(size, "copies");
      this[key] = { address, size, bytes: key === "host" ? NO_BYTES : device.view(address, size) };
    }
    if (this.generation === 0) this.generation = 1;
  }
}

function needsOf(program: Program): Needs {
  const staged = (values: Iterable<Value>): number =>
    [...values].reduce((sum, value) => sum + Math.ceil(value.bytes / 256) * 256, 0);
  return {
    arena: program.arenaBytes,
    host: program.hostBytes,
    inputs: staged(program.inputs.values()),
    outputs: staged(program.outputs.values()),
  };
}

const most = (a: Needs, b: Needs): Needs => ({
  arena: Math.max(a.arena, b.arena),
  host: Math.max(a.host, b.host),
  inputs: Math.max(a.inputs, b.inputs),
  outputs: Math.max(a.outputs, b.outputs),
});
