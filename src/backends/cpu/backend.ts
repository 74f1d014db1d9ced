import type { Node } from "../../graph/graph.ts";
import type { Program } from "../../graph/program.ts";
import type { Rates } from "../../graph/remat.ts";
import { type DType, GraphError, numel, type Shape } from "../../graph/types.ts";
import { quantizeInt8Pieces } from "../../quant/int8.ts";
import { nestAbsmax } from "../../quant/nf4.ts";
import type { Backend, BackendMemory, DeviceTensor, Executable, TensorOptions, TensorRole } from "../backend.ts";
import { type Arena, CpuExecutable, workspaceOf } from "./executable.ts";
import { openRuntime, type RuntimeOptions } from "./index.ts";
import { type Address, type CpuRuntime, encodeInstruction, type KernelArgument } from "./runtime.ts";
import { CpuTensor } from "./tensor.ts";

/** Source elements quantised at a time: a multiple of every block size, small enough to stay in cache. */
const QUANTIZE_PIECE = 2 ** 20;

/**
 * The CPU: tensors in a runtime's memory, one arena for the activations of whatever program runs, f32 arithmetic over
 * weights of any storage type.
 */
export class CpuBackend implements Backend {
  readonly name = "cpu";
  readonly description: string;
  readonly runtime: CpuRuntime;
  poison = false;
  // Measured shape, not speed: what counts is the ratio between arithmetic and traffic (BENCHMARKS.md has the machine's).
  readonly rates: Rates = { flopsPerSecond: 1e11, bytesPerSecond: 1e10, hostBytesPerSecond: 4e9 };
  private readonly tensors = new Set<CpuTensor>();
  private readonly arena: CpuArena;

  constructor(runtime: CpuRuntime) {
    this.runtime = runtime;
    this.arena = new CpuArena(runtime);
    this.description = `CPU (${runtime.kind}, ${runtime.isa}, ${runtime.threads} thread${runtime.threads === 1 ? "" : "s"})`;
  }

  readonly workspaceOf = (node: Node): number => workspaceOf(this.runtime, node);

  createTensor(name: string, dtype: DType, shape: Shape, options: TensorOptions): CpuTensor {
    const tensor = new CpuTensor(this.runtime, name, dtype, shape, options, (t) => this.tensors.delete(t));
    this.tensors.add(tensor);
    return tensor;
  }

  quantize(
    tensor: DeviceTensor,
    dtype: "f32" | "bf16" | "f16",
    read: (target: Uint8Array, offset: number) => void,
  ): void {
    if (!(tensor instanceof CpuTensor) || !tensor.quantization)
      throw new GraphError(`${tensor.name} is not a quantised tensor`);
    if (tensor.dtype === "int8") {
      const write = (part: "data" | "absmax", bytes: Uint8Array, offset: number) =>
        tensor.write(bytes, { part, offset });
      quantizeInt8Pieces(numel(tensor.shape), dtype, read, write);
      return;
    }
    const { blockSize, doubleQuant } = tensor.quantization;
    const count = numel(tensor.shape);
    const size = dtype === "f32" ? 4 : 2;
    const type = { f32: 0, bf16: 1, f16: 2 }[dtype];
    const blocks = Math.ceil(count / blockSize);
    const source = this.runtime.alloc(Math.min(count, QUANTIZE_PIECE) * size);
    const absmax = doubleQuant ? this.runtime.alloc(4 * blocks) : tensor.address("absmax");
    try {
      for (let at = 0; at < count; at += QUANTIZE_PIECE) {
        const n = Math.min(QUANTIZE_PIECE, count - at);
        read(this.runtime.bytes(source, n * size), at * size);
        const target = [tensor.address() + at / 2, absmax + (4 * at) / blockSize];
        this.runKernel("quantize_nf4", [n, type, source, blockSize, ...target]);
      }
      if (!doubleQuant) return;
      const scales = new Float32Array(this.runtime.bytes(absmax, 4 * blocks).slice().buffer);
      const nested = nestAbsmax(scales);
      tensor.write(nested.codes, { part: "absmax" });
      tensor.write(bytesOf(nested.absmax), { part: "nested" });
      tensor.write(bytesOf(nested.map), { part: "map" });
      tensor.nestedOffset = nested.offset;
    } finally {
      this.runtime.free(source);
      if (doubleQuant) this.runtime.free(absmax);
    }
  }

  async dequantize(tensor: DeviceTensor): Promise<Float32Array> {
    if (!(tensor instanceof CpuTensor)) throw new GraphError(`${tensor.name} is not a tensor of the CPU backend`);
    const count = numel(tensor.shape);
    const cols = tensor.shape[tensor.shape.length - 1] ?? 1;
    const out = this.runtime.alloc(4 * count);
    try {
      return await this.arena.exclusive(async () => {
        this.runKernel("dequantize", [...tensor.weightWords(), cols, count / cols, cols, out]);
        return new Float32Array(this.runtime.bytes(out, 4 * count).slice().buffer);
      });
    } finally {
      this.runtime.free(out);
    }
  }

  compile(program: Program): Executable {
    return new CpuExecutable(this.runtime, this.arena, program, this.poison);
  }

  memory(): BackendMemory {
    const tensors: Record<TensorRole, number> = {
      weight: 0,
      adapter: 0,
      gradient: 0,
      optimizer: 0,
      cache: 0,
      constant: 0,
    };
    for (const tensor of this.tensors) tensors[tensor.role] += tensor.bytes;
    return { ...this.runtime.memory(), arena: this.arena.bytes, tensors };
  }

  dispose(): void {
    this.runtime.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  private runKernel(kernel: string, args: readonly KernelArgument[]): void {
    const words = encodeInstruction(this.runtime, kernel, args);
    const code = this.runtime.alloc(words.byteLength);
    try {
      this.runtime.bytes(code, words.byteLength).set(new Uint8Array(words.buffer));
      this.runtime.runSync(code, words.length);
    } finally {
      this.runtime.free(code);
    }
  }
}

const bytesOf = (array: Float32Array): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/** Grows to the largest program; programs find out by `generation` that it moved. */
class CpuArena implements Arena {
  base: Address = 0;
  hostBase: Address = 0;
  generation = 0;
  bytes = 0;
  private hostBytes = 0;
  private readonly runtime: CpuRuntime;
  private wanted = { bytes: 0, hostBytes: 0 };
  private tail: Promise<unknown> = Promise.resolve();

  constructor(runtime: CpuRuntime) {
    this.runtime = runtime;
  }

  reserve(bytes: number, hostBytes: number): void {
    this.wanted.bytes = Math.max(this.wanted.bytes, bytes);
    this.wanted.hostBytes = Math.max(this.wanted.hostBytes, hostBytes);
  }

  exclusive<T>(body: () => Promise<T>): Promise<T> {
    const result = this.tail.then(() => {
      this.grow();
      return body();
    });
    this.tail = result.catch(() => undefined);
    return result;
  }

  // Only between runs: a running program's memory must not move.
  private grow(): void {
    if (this.wanted.bytes > this.bytes) {
      if (this.base) this.runtime.free(this.base);
      [this.base, this.bytes] = [0, 0];
      this.base = this.runtime.alloc(this.wanted.bytes);
      this.bytes = this.wanted.bytes;
      this.generation++;
    }
    if (this.wanted.hostBytes > this.hostBytes) {
      if (this.hostBase) this.runtime.free(this.hostBase);
      [this.hostBase, this.hostBytes] = [0, 0];
      this.hostBase = this.runtime.alloc(this.wanted.hostBytes);
      this.hostBytes = this.wanted.hostBytes;
      this.generation++;
    }
  }
}

/** The CPU backend on the best runtime there is. */
export async function openCpuBackend(options: RuntimeOptions = {}): Promise<CpuBackend> {
  const { runtime } = await openRuntime(options);
  return new CpuBackend(runtime);
}
