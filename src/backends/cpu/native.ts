/** The native addon (native/addon.cc) as a `CpuRuntime`. */

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { Allocations, checkSize, formatBytes } from "./allocations.ts";
import { CONTROL_BYTES, Control } from "./control.ts";
import type { Address, CpuRuntime, KernelArgument, MemoryUse, RunOptions } from "./runtime.ts";
import { encodeArguments, MAX_VIEW_BYTES, opcodeOf } from "./runtime.ts";

interface Addon {
  readonly isas: string[];
  readonly kernels: string[];
  readonly signatures: string[];
  run(
    isa: number,
    threads: number,
    address: number,
    words: number,
    control: ArrayBuffer,
    timings?: Float64Array,
  ): Promise<void>;
  runSync(
    isa: number,
    threads: number,
    address: number,
    words: number,
    control: ArrayBuffer,
    timings?: Float64Array,
  ): void;
  workspace(isa: number, threads: number, opcode: number, words: ArrayBuffer): number;
  reserveThreads(threads: number): number;
  alloc(bytes: number): number;
  free(address: number): void;
  view(address: number, bytes: number): ArrayBuffer;
  detach(buffer: ArrayBuffer): void;
}

export interface NativeOptions {
  /** An instruction set of `isas`; the best by default. */
  isa?: string | undefined;
  /** Default: the processor's threads. */
  threads?: number | undefined;
  /** The addon's file; by default the one built in this package, else the prebuilt one for this platform. */
  file?: string | undefined;
}

const ROOT = new URL("../../../", import.meta.url);

/** The addon's file for this platform: built here, or shipped. */
function addonFile(): string {
  const candidates = ["build/native", `prebuilds/${process.platform}-${process.arch}`].map((folder) =>
    fileURLToPath(new URL(`${folder}/unsloth_cpu.node`, ROOT)),
  );
  const file = candidates.find((candidate) => existsSync(candidate));
  if (!file) {
    throw new Error(
      `no native CPU kernels for ${process.platform}-${process.arch}: looked for ${candidates.join(" and ")}; ` +
        "`npm run build` makes them where there is a C++ compiler",
    );
  }
  return file;
}

/**
 * Loads the native kernels.
 * @throws {Error} when there is no addon for this platform or it does not load; when the instruction set is not available
 * @throws {RangeError} when threads is not a positive whole number
 */
export function loadNative(options: NativeOptions = {}): CpuRuntime {
  const addon = createRequire(import.meta.url)(options.file ?? addonFile()) as Addon;
  const isa = options.isa ?? addon.isas[0]!;
  if (!addon.isas.includes(isa)) {
    throw new Error(`instruction set "${isa}" is not available here; available are ${addon.isas.join(", ")}`);
  }
  return new NativeRuntime(addon, isa, options.threads ?? availableParallelism());
}

interface NativeAllocation {
  readonly address: Address;
  readonly bytes: number;
  /** Buffers over the windows that have been viewed, by window index. */
  readonly windows: Map<number, ArrayBuffer>;
}

/** Window i covers [i, i + 2)·MAX_VIEW_BYTES, so that any view lies inside one: a JavaScript buffer has a size limit. */
const WINDOW_BYTES = 2 * MAX_VIEW_BYTES;

class NativeRuntime implements CpuRuntime {
  readonly kind = "native";
  readonly isa: string;
  readonly isas: readonly string[];
  readonly kernels: readonly string[];
  readonly signatures: readonly string[];
  readonly maxThreads: number;
  readonly #addon: Addon;
  readonly #isaIndex: number;
  readonly #allocations = new Allocations<NativeAllocation>();
  #threads = 1;
  #disposed = false;
  /** Ends when every run so far has; it never rejects. */
  #tail: Promise<void> = Promise.resolve();
  #pending = 0;
  #current: Control | undefined;

  constructor(addon: Addon, isa: string, threads: number) {
    this.#addon = addon;
    this.isa = isa;
    this.isas = addon.isas;
    this.#isaIndex = addon.isas.indexOf(isa);
    this.kernels = addon.kernels;
    this.signatures = addon.signatures;
    this.maxThreads = Number.isSafeInteger(threads) ? Math.max(threads, availableParallelism()) : 1;
    this.setThreads(threads);
  }

  get threads(): number {
    return this.#threads;
  }

  get running(): boolean {
    return this.#pending > 0;
  }

  setThreads(threads: number): void {
    if (!Number.isSafeInteger(threads) || threads < 1 || threads > this.maxThreads) {
      throw new RangeError(`threads must be a whole number from 1 to ${this.maxThreads}, not ${threads}`);
    }
    this.#threads = threads;
  }

  alloc(bytes: number): Address {
    this.#checkAlive();
    checkSize(bytes);
    const address = this.#addon.alloc(bytes);
    if (address === 0) {
      const used = formatBytes(this.memory().allocated);
      throw new Error(`not enough memory for ${formatBytes(bytes)} more (${used} allocated)`);
    }
    this.#allocations.add({ address, bytes, windows: new Map() });
    return address;
  }

  free(address: Address): void {
    if (this.running) throw new Error("memory cannot be freed while a program runs");
    this.#release(this.#allocations.remove(address));
  }

  bytes(address: Address, n: number): Uint8Array {
    const allocation = this.#allocations.holding(address, n);
    const offset = address - allocation.address;
    const index = Math.floor(offset / MAX_VIEW_BYTES);
    const start = index * MAX_VIEW_BYTES;
    let buffer = allocation.windows.get(index);
    if (!buffer) {
      buffer = this.#addon.view(allocation.address + start, Math.min(WINDOW_BYTES, allocation.bytes - start));
      allocation.windows.set(index, buffer);
    }
    return new Uint8Array(buffer, offset - start, n);
  }

  run(address: Address, words: number, options: RunOptions = {}): Promise<void> {
    const { timings, signal } = options;
    this.#checkAlive();
    this.#pending++;
    const result = this.#tail.then(async () => {
      this.#checkAlive();
      signal?.throwIfAborted();
      const buffer = new ArrayBuffer(CONTROL_BYTES);
      const control = new Control(buffer);
      const cancel = () => control.cancel();
      signal?.addEventListener("abort", cancel, { once: true });
      this.#current = control;
      try {
        await this.#addon.run(this.#isaIndex, this.#threads, address, words, buffer, timings);
      } finally {
        this.#current = undefined;
        signal?.removeEventListener("abort", cancel);
      }
      if (control.cancelled) signal?.throwIfAborted();
      this.#throwFault(control);
    });
    this.#tail = result.then(
      () => this.#settle(),
      () => this.#settle(),
    );
    return result;
  }

  runSync(address: Address, words: number, options: Pick<RunOptions, "timings"> = {}): void {
    this.#checkAlive();
    if (this.running) throw new Error("a program is running: await it before runSync");
    const buffer = new ArrayBuffer(CONTROL_BYTES);
    this.#addon.runSync(this.#isaIndex, this.#threads, address, words, buffer, options.timings);
    this.#throwFault(new Control(buffer));
  }

  workspace(kernel: string, args: readonly KernelArgument[]): number {
    const opcode = opcodeOf(this.kernels, kernel);
    const words = new BigUint64Array(args.length);
    encodeArguments(kernel, this.signatures[opcode]!, args, words);
    const bytes = this.#addon.workspace(this.#isaIndex, this.maxThreads, opcode, words.buffer);
    if (bytes < 0) throw new Error(`this build has no kernel "${kernel}"`);
    return bytes;
  }

  memory(): MemoryUse {
    return this.#allocations.use();
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#current?.cancel();
    if (!this.running) this.#releaseAll();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #settle(): void {
    this.#pending--;
    if (this.#disposed && !this.running) this.#releaseAll();
  }

  #throwFault(control: Control): void {
    const fault = control.fault(this.kernels, this.signatures);
    if (fault) throw fault;
  }

  #checkAlive(): void {
    if (this.#disposed) throw new Error("this CPU runtime has been disposed");
  }

  #release(allocation: NativeAllocation): void {
    for (const buffer of allocation.windows.values()) this.#addon.detach(buffer);
    this.#addon.free(allocation.address);
  }

  #releaseAll(): void {
    for (const allocation of this.#allocations.all()) this.#release(allocation);
    this.#allocations.clear();
  }
}
