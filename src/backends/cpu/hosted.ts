/** `CpuRuntime` over a host (the addon or WebAssembly): everything that is the same for both. */

import { Allocations, checkSize, formatBytes } from "./allocations.ts";
import type { Control } from "./control.ts";
import type { Address, CpuRuntime, KernelArgument, MemoryUse, RunOptions } from "./runtime.ts";
import { encodeArguments, opcodeOf } from "./runtime.ts";
import { usableProcessors } from "./threads.ts";

/** A program as the host runs it. */
export interface ProgramRun {
  readonly threads: number;
  readonly address: Address;
  readonly words: number;
  readonly control: Control;
  readonly timings: Float64Array | undefined;
}

/** What differs between the addon and WebAssembly. Arguments are checked by `HostedRuntime`. */
export interface Host {
  readonly kind: "native" | "wasm";
  readonly isa: string;
  readonly isas: readonly string[];
  readonly kernels: readonly string[];
  readonly signatures: readonly string[];
  /** Why an allocation may fail beside a full machine; "" when nothing else. */
  readonly limit: string;
  /** Zeroed, 64-byte aligned memory; 0 when there is not enough. */
  alloc(bytes: number): Address;
  free(address: Address): void;
  /** A view inside the allocation of `total` bytes that starts at `address`. */
  view(address: Address, total: number, offset: number, bytes: number): Uint8Array;
  /** A control block for the next program. */
  control(): Control;
  run(program: ProgramRun): Promise<void>;
  runSync(program: ProgramRun): void;
  /** Bytes of workspace for these arguments with up to `threads` threads. */
  workspace(threads: number, opcode: number, words: BigUint64Array): number;
  /** Called before a program with more threads than any before. */
  prepareThreads(threads: number): void;
  /** Called once, when no program runs and all memory has been freed. */
  close(): void;
}

export class HostedRuntime implements CpuRuntime {
  readonly kind: "native" | "wasm";
  readonly isa: string;
  readonly isas: readonly string[];
  readonly kernels: readonly string[];
  readonly signatures: readonly string[];
  readonly maxThreads: number;
  readonly #host: Host;
  readonly #allocations = new Allocations();
  #threads = 1;
  #disposed = false;
  /** Settles when every run so far has; it never rejects. */
  #tail: Promise<void> = Promise.resolve();
  #pending = 0;
  #current: Control | undefined;

  /** @throws {RangeError} when threads is not a positive whole number */
  constructor(host: Host, threads: number = usableProcessors()) {
    this.#host = host;
    this.kind = host.kind;
    this.isa = host.isa;
    this.isas = host.isas;
    this.kernels = host.kernels;
    this.signatures = host.signatures;
    this.maxThreads = Number.isSafeInteger(threads) ? Math.max(threads, usableProcessors()) : 1;
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
    this.#checkAlive();
    this.#host.prepareThreads(threads);
    this.#threads = threads;
  }

  alloc(bytes: number): Address {
    this.#checkAlive();
    checkSize(bytes);
    const address = this.#host.alloc(bytes);
    if (address === 0) {
      const used = formatBytes(this.memory().allocated);
      throw new Error(`not enough memory for ${formatBytes(bytes)} more (${used} allocated)${this.#host.limit}`);
    }
    this.#allocations.add({ address, bytes });
    return address;
  }

  free(address: Address): void {
    if (this.running) throw new Error("memory cannot be freed while a program runs");
    this.#allocations.remove(address);
    this.#host.free(address);
  }

  bytes(address: Address, n: number): Uint8Array {
    const allocation = this.#allocations.holding(address, n);
    return this.#host.view(allocation.address, allocation.bytes, address - allocation.address, n);
  }

  run(address: Address, words: number, options: RunOptions = {}): Promise<void> {
    this.#pending++;
    const result = this.#tail.then(() => this.#runNext(address, words, options));
    const settle = () => {
      this.#pending--;
      if (this.#disposed && !this.running) this.#close();
    };
    this.#tail = result.then(settle, settle);
    return result;
  }

  runSync(address: Address, words: number, options: Pick<RunOptions, "timings"> = {}): void {
    if (this.running) throw new Error("a program is running: await it before runSync");
    const program = this.#program(address, words, options.timings);
    this.#host.runSync(program);
    this.#throwFault(program.control);
  }

  workspace(kernel: string, args: readonly KernelArgument[]): number {
    this.#checkAlive();
    const opcode = opcodeOf(this.kernels, kernel);
    const words = new BigUint64Array(args.length);
    encodeArguments(kernel, this.signatures[opcode]!, args, words);
    return this.#host.workspace(this.maxThreads, opcode, words);
  }

  memory(): MemoryUse {
    return this.#allocations.use();
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#current?.cancel();
    if (!this.running) this.#close();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async #runNext(address: Address, words: number, { timings, signal }: RunOptions): Promise<void> {
    signal?.throwIfAborted();
    const program = this.#program(address, words, timings);
    const { control } = program;
    const cancel = () => control.cancel();
    signal?.addEventListener("abort", cancel, { once: true });
    this.#current = control;
    try {
      await this.#host.run(program);
    } finally {
      this.#current = undefined;
      signal?.removeEventListener("abort", cancel);
    }
    if (control.cancelled) signal?.throwIfAborted();
    this.#throwFault(control);
  }

  #program(address: Address, words: number, timings: Float64Array | undefined): ProgramRun {
    this.#checkAlive();
    for (const [name, value] of Object.entries({ address, words })) {
      if (!Number.isSafeInteger(value) || value < 0) {
        throw new RangeError(`the program's ${name} must be a whole number from 0, not ${value}`);
      }
    }
    return { threads: this.#threads, address, words, control: this.#host.control(), timings };
  }

  #throwFault(control: Control): void {
    const fault = control.fault(this.kernels, this.signatures);
    if (fault) throw fault;
  }

  #checkAlive(): void {
    if (this.#disposed) throw new Error("this CPU runtime has been disposed");
  }

  #close(): void {
    for (const { address } of this.#allocations.all()) this.#host.free(address);
    this.#allocations.clear();
    this.#host.close();
  }
}
