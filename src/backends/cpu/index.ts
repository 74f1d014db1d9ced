/** The CPU runtime to use: native kernels where they load, else WebAssembly. */

import { loadNative } from "./native.ts";
import type { CpuRuntime } from "./runtime.ts";
import { loadWasm } from "./wasm.ts";

export interface RuntimeOptions {
  /** "native" (the default) falls back to WebAssembly; "wasm" does not try the native kernels. */
  readonly prefer?: "native" | "wasm" | undefined;
  /** Default: the processor's threads. */
  readonly threads?: number | undefined;
  /** An instruction set of the native kernels. Naming one rules the fallback out. */
  readonly isa?: string | undefined;
}

export interface OpenedRuntime {
  readonly runtime: CpuRuntime;
  /** Why the native kernels are not used, in words for the user; null when they are. */
  readonly reason: string | null;
}

/**
 * Opens a CPU runtime.
 * @throws {Error} when neither kind loads, or the named instruction set is not available
 * @throws {RangeError} when threads is not a positive whole number
 */
export async function openRuntime(options: RuntimeOptions = {}): Promise<OpenedRuntime> {
  const { prefer = "native", threads, isa } = options;
  if (prefer === "wasm") {
    if (isa !== undefined) throw new Error(`isa "${isa}" is of the native kernels; leave it out with prefer "wasm"`);
    return { runtime: await loadWasm({ threads }), reason: "WebAssembly was asked for" };
  }
  try {
    return { runtime: loadNative({ isa, threads }), reason: null };
  } catch (error) {
    if (error instanceof RangeError || isa !== undefined) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    try {
      return { runtime: await loadWasm({ threads }), reason };
    } catch (wasmError) {
      throw new AggregateError([error, wasmError], `no CPU kernels: ${reason}; nor WebAssembly: ${wasmError}`);
    }
  }
}
