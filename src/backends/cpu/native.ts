/** The native addon (native/addon.cc) as a `CpuRuntime`. */

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { CONTROL_BYTES, Control } from "./control.ts";
import { type Host, HostedRuntime, type ProgramRun } from "./hosted.ts";
import type { Address, CpuRuntime } from "./runtime.ts";
import { MAX_VIEW_BYTES } from "./runtime.ts";

type RunArguments = [
  isa: number,
  threads: number,
  address: number,
  words: number,
  control: ArrayBufferLike,
  timings: Float64Array | undefined,
];

interface Addon {
  readonly isas: string[];
  readonly kernels: string[];
  readonly signatures: string[];
  run(...run: RunArguments): Promise<void>;
  runSync(...run: RunArguments): void;
  workspace(isa: number, threads: number, opcode: number, words: ArrayBufferLike): number;
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
        "`node scripts/build.mjs native` makes them where there is a C++ compiler",
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
  return new HostedRuntime(new NativeHost(addon, isa), options.threads);
}

/** Window i of an allocation covers [i, i + 2)·MAX_VIEW_BYTES, so that any view lies inside one: buffers have a size limit. */
const WINDOW_BYTES = 2 * MAX_VIEW_BYTES;

class NativeHost implements Host {
  readonly kind = "native";
  readonly isa: string;
  readonly isas: readonly string[];
  readonly kernels: readonly string[];
  readonly signatures: readonly string[];
  readonly limit = "";
  readonly #addon: Addon;
  readonly #isaIndex: number;
  /** The buffers over an allocation's windows that have been viewed, by window. */
  readonly #windows = new Map<Address, Map<number, ArrayBuffer>>();
  #control = new ArrayBuffer(CONTROL_BYTES);

  constructor(addon: Addon, isa: string) {
    this.#addon = addon;
    this.isa = isa;
    this.isas = addon.isas;
    this.#isaIndex = addon.isas.indexOf(isa);
    this.kernels = addon.kernels;
    this.signatures = addon.signatures;
  }

  alloc(bytes: number): Address {
    return this.#addon.alloc(bytes);
  }

  free(address: Address): void {
    for (const buffer of this.#windows.get(address)?.values() ?? []) this.#addon.detach(buffer);
    this.#windows.delete(address);
    this.#addon.free(address);
  }

  view(address: Address, total: number, offset: number, bytes: number): Uint8Array {
    const index = Math.floor(offset / MAX_VIEW_BYTES);
    const start = index * MAX_VIEW_BYTES;
    let windows = this.#windows.get(address);
    if (!windows) {
      windows = new Map();
      this.#windows.set(address, windows);
    }
    let buffer = windows.get(index);
    if (!buffer) {
      buffer = this.#addon.view(address + start, Math.min(WINDOW_BYTES, total - start));
      windows.set(index, buffer);
    }
    return new Uint8Array(buffer, offset - start, bytes);
  }

  control(): Control {
    this.#control = new ArrayBuffer(CONTROL_BYTES);
    return new Control(this.#control);
  }

  run(program: ProgramRun): Promise<void> {
    return this.#addon.run(...this.#arguments(program));
  }

  runSync(program: ProgramRun): void {
    this.#addon.runSync(...this.#arguments(program));
  }

  workspace(threads: number, opcode: number, words: BigUint64Array): number {
    return this.#addon.workspace(this.#isaIndex, threads, opcode, words.buffer);
  }

  /** The addon starts threads itself when a program wants them. */
  prepareThreads(): void {}

  close(): void {}

  #arguments({ threads, address, words, timings }: ProgramRun): RunArguments {
    return [this.#isaIndex, threads, address, words, this.#control, timings];
  }
}
