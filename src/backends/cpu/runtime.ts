/** Where CPU programs run: the native addon or the WebAssembly build of the same kernels, behind one interface. */

/** Memory of the runtime, by address. 0 means "absent". A number: addresses stay below 2^53. */
export type Address = number;

/** The largest view `bytes` gives at once. */
export const MAX_VIEW_BYTES = 2 ** 30;

export interface RunOptions {
  /** Receives the nanoseconds each instruction took, in program order; extra instructions are not recorded. */
  timings?: Float64Array | undefined;
  /** Stops before the next instruction; the promise then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface MemoryUse {
  /** Bytes allocated now. */
  allocated: number;
  /** The most bytes allocated at any one time. */
  peak: number;
}

/**
 * Runs programs (native/vm.h) on kernels of one instruction set.
 *
 * Ownership: memory belongs to the runtime from `alloc` to `free` or `dispose`. Views from `bytes` are windows on it.
 * The native runtime detaches its views when their memory is freed (they become empty). A WebAssembly view cannot be
 * detached and would show whatever lies there next. Take views when needed and keep none across a `free`.
 */
export interface CpuRuntime {
  readonly kind: "native" | "wasm";
  /** The instruction set in use: "avx512", "avx2", "base" (SSE2 or NEON) or "simd128" (WebAssembly). */
  readonly isa: string;
  /** Every instruction set this processor and build could use, best first. */
  readonly isas: readonly string[];
  /** Threads that share a kernel's work, the program's own included. */
  readonly threads: number;
  /** Threads that `workspace` sizes for; `setThreads` goes up to it. */
  readonly maxThreads: number;
  /** Kernel names; the index is the opcode. */
  readonly kernels: readonly string[];
  /** Argument letters of each kernel, as in native/kernels/list.h. */
  readonly signatures: readonly string[];
  /** True while a program started by `run` has not finished. */
  readonly running: boolean;

  /** Sets the number of threads of the programs to come: 1 to `maxThreads`. Throws a RangeError otherwise. */
  setThreads(threads: number): void;
  /** Allocates zeroed memory, 64-byte aligned. Throws an Error that says how much was asked for when there is none. */
  alloc(bytes: number): Address;
  /** Gives an allocation back. Throws when the address is not one of `alloc`'s, or a program is running. */
  free(address: Address): void;
  /**
   * A live view of n bytes at an address inside one allocation (see Ownership above), at most `MAX_VIEW_BYTES`.
   * Throws a RangeError when the range is not inside one.
   */
  bytes(address: Address, n: number): Uint8Array;
  /**
   * Runs the program of `words` 64-bit words at `address`, off the main thread. The whole program is checked first:
   * opcodes, argument counts, that every address lies in an allocation of this process, and workspaces' sizes.
   * What a kernel reads from there on is the compiler's responsibility. Rejects with an Error naming the instruction.
   * Runs of one runtime happen one after another, in call order.
   */
  run(address: Address, words: number, options?: RunOptions): Promise<void>;
  /** The same, on this thread. Throws when a program is running. */
  runSync(address: Address, words: number, options?: Pick<RunOptions, "timings">): void;
  /** Bytes of workspace the kernel needs for these arguments, with up to `maxThreads` threads. Addresses may be 0. */
  workspace(kernel: string, args: readonly KernelArgument[]): number;
  memory(): MemoryUse;
  /** Frees all memory; a running program is cancelled first. Nothing but `memory` works afterwards. */
  dispose(): void;
  [Symbol.dispose](): void;
}

/** An integer, a double or an address, by the kernel's signature; a weight is 7 arguments (see `WEIGHT_LETTERS`). */
export type KernelArgument = number | bigint | boolean;

const WEIGHT_LETTERS = "ippppfi";

/** One letter a word: i integer, f double, p address. "iW p" → "iippppfip". */
export function wordLetters(signature: string): string {
  return signature.replaceAll(" ", "").replaceAll("W", WEIGHT_LETTERS);
}

/**
 * Writes arguments as program words at `words[at]`.
 * @throws {TypeError} when their number is not the kernel's, or an integer or address is not a whole number.
 */
export function encodeArguments(
  kernel: string,
  signature: string,
  args: readonly KernelArgument[],
  words: BigUint64Array,
  at = 0,
): void {
  const letters = wordLetters(signature);
  if (args.length !== letters.length) {
    throw new TypeError(
      `${kernel} takes ${letters.length} arguments (${signature}; W is ${WEIGHT_LETTERS.length}), got ${args.length}`,
    );
  }
  const doubles = new Float64Array(words.buffer, words.byteOffset, words.length);
  const integers = new BigInt64Array(words.buffer, words.byteOffset, words.length);
  args.forEach((arg, i) => {
    if (letters[i] === "f") doubles[at + i] = Number(arg);
    else if (typeof arg === "number" && !Number.isSafeInteger(arg)) {
      throw new TypeError(`argument ${i} of ${kernel} is ${arg}; expected a whole number (signature ${signature})`);
    } else integers[at + i] = BigInt(arg);
  });
}

/** An instruction of a program as its words. */
export function encodeInstruction(
  runtime: Pick<CpuRuntime, "kernels" | "signatures">,
  kernel: string,
  args: readonly KernelArgument[],
  workspace: Address = 0,
): BigUint64Array {
  const opcode = opcodeOf(runtime.kernels, kernel);
  const words = new BigUint64Array(2 + args.length);
  words[0] = BigInt(opcode) | (BigInt(args.length) << 32n);
  words[1] = BigInt(workspace);
  encodeArguments(kernel, runtime.signatures[opcode]!, args, words, 2);
  return words;
}

/** The opcode of a kernel. Throws an Error that lists the kernels when there is none of that name. */
export function opcodeOf(kernels: readonly string[], kernel: string): number {
  const opcode = kernels.indexOf(kernel);
  if (opcode < 0) throw new Error(`there is no kernel "${kernel}"; the kernels are ${kernels.join(", ")}`);
  return opcode;
}
