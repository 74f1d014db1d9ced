import type { Value } from "../../graph/graph.ts";
import type { Program } from "../../graph/program.ts";
import type { CudaDevice } from "./device.ts";
import type { DevicePointer } from "./driver.ts";

interface Pinned {
  address: bigint;
  bytes: Uint8Array;
}

const NOTHING: Pinned = { address: 0n, bytes: new Uint8Array(0) };

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
  private wanted = { arena: 0, host: 0, inputs: 0, outputs: 0 };
  private tail: Promise<unknown> = Promise.resolve();

  constructor(device: CudaDevice) {
    this.device = device;
  }

  /** Make sure that there is room for a program when it next runs. */
  reserve(program: Program): void {
    const { wanted } = this;
    const staged = (values: Iterable<Value>): number =>
      [...values].reduce((sum, value) => sum + Math.ceil(value.bytes / 256) * 256, 0);
    wanted.arena = Math.max(wanted.arena, program.arenaBytes);
    wanted.host = Math.max(wanted.host, program.hostBytes);
    wanted.inputs = Math.max(wanted.inputs, staged(program.inputs.values()));
    wanted.outputs = Math.max(wanted.outputs, staged(program.outputs.values()));
  }

  /** Run `body` when nothing else uses the arena. */
  exclusive<T>(body: () => Promise<T>): Promise<T> {
    const result = this.tail.then(() => {
      this.grow();
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

  // Only between runs: a running program's memory must not move.
  private grow(): void {
    const { device, wanted } = this;
    if (wanted.arena > this.bytes) {
      if (this.base) device.free(this.base);
      [this.base, this.bytes] = [0, 0];
      this.base = device.alloc(wanted.arena);
      this.bytes = wanted.arena;
      this.generation++;
    }
    for (const key of ["host", "inputs", "outputs"] as const) {
      if (wanted[key] <= this[key].bytes.byteLength) continue;
      if (this[key].address) device.freePinned(this[key].address);
      this[key] = NOTHING;
      this[key] = device.pinned(wanted[key]);
      if (key === "host") this.generation++;
    }
    if (this.generation === 0) this.generation = 1;
  }
}
