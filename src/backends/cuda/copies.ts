import type { Value } from "../../graph/graph.ts";
import type { CudaDevice } from "./device.ts";
import type { Handle } from "./driver.ts";

const NO_TIMING = 2;

/**
 * Copies beside arithmetic: each starts when all work enqueued before it is done, on a stream of its own, and later work
 * waits for it by the value that it fills. Events only, so a CUDA graph records it as parallel branches.
 */
export class CopyQueue {
  private readonly device: CudaDevice;
  private ready: Handle | null = null;
  private readonly done = new Map<Value, Handle>();
  /** Copies that nothing has waited for, in order. */
  private readonly pending = new Set<Value>();

  constructor(device: CudaDevice) {
    this.device = device;
  }

  /** Enqueue a copy that fills `value`; without `overlaps` what is enqueued from here on waits for it. */
  start(value: Value, copy: (stream: Handle) => void, overlaps: boolean): void {
    const { driver, stream, copyStream } = this.device;
    let done = this.done.get(value);
    if (done === undefined) {
      done = driver.create("cuEventCreate", NO_TIMING);
      this.done.set(value, done);
    }
    this.ready ??= driver.create("cuEventCreate", NO_TIMING);
    driver.call("cuEventRecord", this.ready, stream);
    driver.call("cuStreamWaitEvent", copyStream, this.ready, 0);
    copy(copyStream);
    driver.call("cuEventRecord", done, copyStream);
    this.pending.add(value);
    if (!overlaps) this.wait(value);
  }

  /** Let what is enqueued from here on run after the copy that fills `value`, and so after all copies before it. */
  wait(value: Value): void {
    if (!this.pending.has(value)) return;
    const { driver, stream } = this.device;
    driver.call("cuStreamWaitEvent", stream, this.done.get(value)!, 0);
    for (const earlier of this.pending) {
      this.pending.delete(earlier);
      if (earlier === value) return;
    }
  }

  /** Wait for all. */
  join(): void {
    const last = [...this.pending].at(-1);
    if (last) this.wait(last);
  }

  dispose(): void {
    this.pending.clear();
    for (const event of [this.ready, ...this.done.values()]) {
      if (event !== null) this.device.driver.try("cuEventDestroy", event);
    }
    this.done.clear();
    this.ready = null;
  }
}
