/** Running single kernels in tests, on every runtime there is. */

import { loadNative } from "../backends/cpu/native.ts";
import type { Address, CpuRuntime, KernelArgument } from "../backends/cpu/runtime.ts";
import { encodeInstruction } from "../backends/cpu/runtime.ts";
import { loadWasm } from "../backends/cpu/wasm.ts";

/**
 * Runs one kernel on memory of the runtime, with a workspace of the size it asks for, on this thread.
 * @param args by the kernel's signature (native/kernels/list.h); a weight is 7 of them (`weightArguments`)
 */
export function runKernel(runtime: CpuRuntime, name: string, args: readonly KernelArgument[]): void {
  const need = runtime.workspace(name, args);
  const workspace = need > 0 ? runtime.alloc(need) : 0;
  if (workspace) poison(runtime, workspace, need);
  const words = encodeInstruction(runtime, name, args, workspace);
  const program = runtime.alloc(words.byteLength);
  try {
    runtime.bytes(program, words.byteLength).set(new Uint8Array(words.buffer));
    runtime.runSync(program, words.length);
  } finally {
    runtime.free(program);
    if (workspace) runtime.free(workspace);
  }
}

/** NaNs everywhere: a kernel that relies on a cleared workspace shows. */
function poison(runtime: CpuRuntime, address: Address, bytes: number): void {
  runtime.bytes(address, bytes).fill(255);
}

/** Typed arrays a tensor can hold. */
export type TensorData = Float32Array | Int32Array | Uint32Array | Uint16Array | Uint8Array;

/** Memory of a runtime for one test, all freed together: `using memory = new TestMemory(runtime)`. */
export class TestMemory {
  readonly runtime: CpuRuntime;
  readonly #addresses: Address[] = [];

  constructor(runtime: CpuRuntime) {
    this.runtime = runtime;
  }

  /** Copies data into the runtime; null gives 0, "absent". */
  put(data: TensorData | null): Address {
    if (data === null) return 0;
    const address = this.alloc(data.byteLength);
    this.runtime.bytes(address, data.byteLength).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return address;
  }

  /** n floats filled with NaN, so that an element a kernel forgets to write shows. */
  output(n: number): Address {
    const address = this.alloc(4 * n);
    this.runtime.bytes(address, 4 * n).fill(255);
    return address;
  }

  alloc(bytes: number): Address {
    const address = this.runtime.alloc(bytes);
    this.#addresses.push(address);
    return address;
  }

  /** A copy of n floats. */
  floats(address: Address, n: number): Float32Array {
    return new Float32Array(this.copy(address, 4 * n).buffer);
  }

  ints(address: Address, n: number): Int32Array {
    return new Int32Array(this.copy(address, 4 * n).buffer);
  }

  /** A copy of n bytes. */
  copy(address: Address, n: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.runtime.bytes(address, n));
  }

  [Symbol.dispose](): void {
    for (const address of this.#addresses) this.runtime.free(address);
  }
}

export const WeightType = { f32: 0, bf16: 1, f16: 2, nf4: 3, nf4DoubleQuantised: 4 } as const;

/** Where the parts of a weight are (vm.h): addresses, 0 when absent. */
export interface WeightParts {
  type: number;
  data: Address;
  absmax?: Address;
  nested?: Address;
  map?: Address;
  offset?: number;
  block?: number;
}

/** A weight as its 7 kernel arguments. */
export function weightArguments(w: WeightParts): number[] {
  return [w.type, w.data, w.absmax ?? 0, w.nested ?? 0, w.map ?? 0, w.offset ?? 0, w.block ?? 64];
}

/**
 * Every runtime the tests should pass on, by name: native with 1 and 2 threads on each instruction set this processor
 * has, and WebAssembly with 1 and 2 threads. They live as long as the process. $UNSLOTH_TEST_ADDON and
 * $UNSLOTH_TEST_WASM name other builds to test than the package's own.
 */
export async function runtimes(): Promise<Map<string, CpuRuntime>> {
  const all = new Map<string, CpuRuntime>();
  const file = process.env.UNSLOTH_TEST_ADDON;
  for (const isa of loadNative({ file }).isas) {
    for (const threads of [1, 2]) all.set(`native ${isa}, ${threads} thread`, loadNative({ file, isa, threads }));
  }
  const wasm = process.env.UNSLOTH_TEST_WASM;
  for (const threads of [1, 2]) all.set(`wasm, ${threads} thread`, await loadWasm({ file: wasm, threads }));
  return all;
}

/** max|got − want| / max|want|, the tests' measure of error; Infinity when anything is NaN or the lengths differ. */
export function relativeError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  if (got.length !== want.length) return Infinity;
  let difference = 0;
  let size = 0;
  for (let i = 0; i < want.length; i++) {
    const d = Math.abs(got[i]! - want[i]!);
    if (Number.isNaN(d)) return Infinity;
    difference = Math.max(difference, d);
    size = Math.max(size, Math.abs(want[i]!));
  }
  return difference === 0 ? 0 : difference / size;
}

/** A seeded generator of uniform numbers in [−1, 1) (xorshift32). */
export function randomSource(seed: number): () => number {
  let state = seed | 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 31 - 1;
  };
}

/** n seeded floats in [−1, 1). */
export function randomFloats(n: number, seed: number): Float32Array {
  const next = randomSource(seed);
  return Float32Array.from({ length: n }, next);
}
