/** The WebAssembly build (native/wasm.cc) as a `CpuRuntime`: shared memory, one worker thread for each kernel thread. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { CONTROL_BYTES, Control } from "./control.ts";
import { type Host, HostedRuntime, type ProgramRun } from "./hosted.ts";
import type { Address, CpuRuntime } from "./runtime.ts";
import { usableProcessors } from "./threads.ts";

interface Exports {
  readonly __stack_pointer: WebAssembly.Global;
  readonly __tls_size: WebAssembly.Global;
  __wasm_init_tls(block: number): void;
  alloc(bytes: number): number;
  free(address: number): void;
  run(threads: number, address: number, words: number, control: number, timings: number, timed: number): void;
  workspace(threads: number, opcode: number, words: number, count: number): number;
  kernelCount(): number;
  kernelName(opcode: number): number;
  kernelArguments(opcode: number): number;
}

export interface WasmOptions {
  /** Default: the processor's threads. */
  threads?: number | undefined;
  /** The module's file; by default the one this package ships. */
  file?: string | undefined;
}

const PAGE = 65536;
const INITIAL_PAGES = 64;
/** 4 GiB, or less where so much address space is not to be had. */
const MAXIMUM_PAGES = [65536, 32768, 16384, 4096];
const STACK_BYTES = 2 ** 20;

/**
 * Loads the WebAssembly kernels and starts their threads.
 * @throws {Error} when the module cannot be read or compiled, or shared memory is not to be had
 * @throws {RangeError} when threads is not a positive whole number
 */
export async function loadWasm(options: WasmOptions = {}): Promise<CpuRuntime> {
  const file = options.file ?? fileURLToPath(new URL("../../../prebuilds/wasm/unsloth_cpu.wasm", import.meta.url));
  const module = await WebAssembly.compile(readFileSync(file));
  const host = new WasmHost(module);
  try {
    const runtime = new HostedRuntime(host, options.threads ?? usableProcessors());
    await host.started();
    return runtime;
  } catch (error) {
    host.close();
    throw error;
  }
}

function sharedMemory(): { memory: WebAssembly.Memory; bytes: number } {
  let failure: unknown;
  for (const maximum of MAXIMUM_PAGES) {
    try {
      const memory = new WebAssembly.Memory({ initial: INITIAL_PAGES, maximum, shared: true });
      return { memory, bytes: maximum * PAGE };
    } catch (error) {
      failure = error;
    }
  }
  throw new Error("no shared WebAssembly memory is to be had here", { cause: failure });
}

/**
 * A thread: an instance with its own stack. Thread 0 runs programs on request, so that the main thread need not; the
 * others serve its fork-joins and never come back. It is plain text because a worker cannot load TypeScript.
 */
const WORKER = `
const { parentPort, workerData } = require("node:worker_threads");
const { module, memory, stack, block, thread } = workerData;
const { exports } = new WebAssembly.Instance(module, { env: { memory, now_ms: () => performance.now() } });
exports.__stack_pointer.value = stack;
exports.__wasm_init_tls(block);
if (thread === 0) {
  parentPort.on("message", (run) => {
    exports.run(...run);
    parentPort.postMessage("done");
  });
  parentPort.postMessage("ready");
} else {
  parentPort.postMessage("ready");
  try {
    exports.worker(thread);
  } catch (error) {
    exports.crash();
    throw error;
  }
}
`;

interface Thread {
  readonly worker: Worker;
  readonly ready: Promise<void>;
}

class WasmHost implements Host {
  readonly kind = "wasm";
  readonly isa = "simd128";
  readonly isas = ["simd128"];
  readonly kernels: readonly string[];
  readonly signatures: readonly string[];
  readonly limit: string;
  readonly #module: WebAssembly.Module;
  readonly #memory: WebAssembly.Memory;
  readonly #exports: Exports;
  readonly #control: number;
  readonly #threads: Thread[] = [];
  #waiting: { resolve: () => void; reject: (error: Error) => void } | undefined;
  /** A thread that died in a kernel: the memory's state is unknown, so nothing runs any more. */
  #crashed: Error | undefined;
  #closed = false;

  constructor(module: WebAssembly.Module) {
    const { memory, bytes } = sharedMemory();
    this.#module = module;
    this.#memory = memory;
    this.limit = `; the WebAssembly build can use ${bytes / 2 ** 30} GiB at most`;
    const instance = new WebAssembly.Instance(module, { env: { memory, now_ms: () => performance.now() } });
    this.#exports = instance.exports as unknown as Exports;
    this.#exports.__wasm_init_tls(this.#own(this.#exports.__tls_size.value));
    this.#control = this.#own(CONTROL_BYTES);
    const opcodes = Array.from({ length: this.#exports.kernelCount() }, (_, opcode) => opcode);
    this.kernels = opcodes.map((opcode) => this.#text(this.#exports.kernelName(opcode)));
    this.signatures = opcodes.map((opcode) => this.#text(this.#exports.kernelArguments(opcode)));
  }

  /** Resolves when every thread so far is there. */
  async started(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.ready));
  }

  alloc(bytes: number): Address {
    return this.#exports.alloc(bytes) >>> 0;
  }

  free(address: Address): void {
    this.#exports.free(address);
  }

  view(address: Address, _total: number, offset: number, bytes: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, address + offset, bytes);
  }

  control(): Control {
    const control = new Control(this.#memory.buffer, this.#control);
    control.reset();
    return control;
  }

  async run(program: ProgramRun): Promise<void> {
    this.#checkUsable();
    const driver = this.#threads[0]!.worker;
    const timings = this.#timings(program);
    const done = new Promise<void>((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
    driver.ref(); // the process stays for the result
    driver.postMessage(this.#arguments(program, timings));
    try {
      await done;
    } finally {
      this.#waiting = undefined;
      driver.unref();
    }
    this.#readTimings(program, timings);
  }

  runSync(program: ProgramRun): void {
    this.#checkUsable();
    const timings = this.#timings(program);
    try {
      this.#exports.run(...this.#arguments(program, timings));
    } catch (error) {
      throw this.#crash(error);
    }
    this.#readTimings(program, timings);
  }

  workspace(threads: number, opcode: number, words: BigUint64Array): number {
    const address = this.#own(words.byteLength);
    this.view(address, 0, 0, words.byteLength).set(new Uint8Array(words.buffer, words.byteOffset, words.byteLength));
    const bytes = this.#exports.workspace(threads, opcode, address, words.length);
    this.free(address);
    return bytes;
  }

  prepareThreads(threads: number): void {
    while (this.#threads.length < threads) this.#threads.push(this.#start(this.#threads.length));
  }

  close(): void {
    this.#closed = true;
    for (const { worker } of this.#threads) void worker.terminate();
  }

  #start(thread: number): Thread {
    const stack = this.#own(STACK_BYTES) + STACK_BYTES;
    const block = this.#own(this.#exports.__tls_size.value);
    const workerData = { module: this.#module, memory: this.#memory, stack, block, thread };
    const worker = new Worker(WORKER, {
      eval: true,
      execArgv: [],
      workerData,
      name: `unsloth kernel thread ${thread}`,
    });
    const ready = new Promise<void>((resolve, reject) => {
      worker.on("message", (message) => {
        if (message === "done") this.#waiting?.resolve();
        else {
          resolve();
          worker.unref();
        }
      });
      worker.on("error", (error) => reject(this.#crash(error)));
      worker.on("exit", () => {
        if (!this.#closed) reject(this.#crash(new Error("the thread ended")));
      });
    });
    ready.catch(() => {}); // whoever awaits `started` sees it; a later crash is reported by the run it breaks
    return { worker, ready };
  }

  #crash(error: unknown): Error {
    const message = error instanceof Error ? error.message : String(error);
    this.#crashed ??= new Error(
      `a WebAssembly kernel thread failed: ${message}; this runtime cannot be used any more`,
      {
        cause: error,
      },
    );
    this.#waiting?.reject(this.#crashed);
    return this.#crashed;
  }

  #checkUsable(): void {
    if (this.#crashed) throw this.#crashed;
  }

  /** Memory of the host's own: it does not count as the user's. */
  #own(bytes: number): Address {
    const address = this.alloc(bytes);
    if (address === 0) throw new Error(`not enough memory for a kernel thread${this.limit}`);
    return address;
  }

  #timings(program: ProgramRun): Address {
    return program.timings ? this.#own(program.timings.byteLength) : 0;
  }

  #readTimings({ timings }: ProgramRun, address: Address): void {
    if (!timings) return;
    timings.set(new Float64Array(this.#memory.buffer, address, timings.length));
    this.free(address);
  }

  #arguments(program: ProgramRun, timings: Address): Parameters<Exports["run"]> {
    const { threads, address, words } = program;
    return [threads, address, words, this.#control, timings, program.timings?.length ?? 0];
  }

  #text(address: number): string {
    const bytes = new Uint8Array(this.#memory.buffer);
    return String.fromCharCode(...bytes.slice(address, bytes.indexOf(0, address)));
  }
}
