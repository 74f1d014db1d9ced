import type { TensorOptions } from "../backends/backend.ts";
import { CpuBackend } from "../backends/cpu/backend.ts";
import { openRuntime, type RuntimeOptions } from "../backends/cpu/index.ts";
import type { Address, CpuRuntime, KernelArgument, MemoryUse } from "../backends/cpu/runtime.ts";
import type { CpuTensor } from "../backends/cpu/tensor.ts";
import type { DType, Shape } from "../graph/types.ts";

/**
 * The CPU backend without memory: tensors have sizes and no contents, programs are planned and never run. What a training
 * would need is found out with it, for models that this machine could not hold.
 */
export class SketchBackend extends CpuBackend {
  override createTensor(name: string, dtype: DType, shape: Shape, options: TensorOptions): CpuTensor {
    const tensor = super.createTensor(name, dtype, shape, options);
    return Object.assign(tensor, { write: () => undefined, read: () => Promise.resolve(new Uint8Array(0)) });
  }

  override quantize(): void {}

  /** Nothing, of any length. */
  override dequantize(): Promise<Float32Array> {
    return Promise.resolve(new Float32Array(0));
  }
}

/** A runtime's sizes without its memory. */
class SketchRuntime implements CpuRuntime {
  readonly kind;
  readonly isa;
  readonly isas;
  readonly threads;
  readonly maxThreads;
  readonly kernels;
  readonly signatures;
  readonly running = false;
  private readonly real: CpuRuntime;

  constructor(real: CpuRuntime) {
    this.real = real;
    this.kind = real.kind;
    this.isa = real.isa;
    this.isas = real.isas;
    this.threads = real.threads;
    this.maxThreads = real.maxThreads;
    this.kernels = real.kernels;
    this.signatures = real.signatures;
  }

  alloc(): Address {
    return 64;
  }

  free(): void {}

  workspace(kernel: string, args: readonly KernelArgument[]): number {
    return this.real.workspace(kernel, args);
  }

  memory(): MemoryUse {
    return { allocated: 0, peak: 0 };
  }

  setThreads(): void {
    throw new Error(NO_MEMORY);
  }

  bytes(): Uint8Array {
    throw new Error(NO_MEMORY);
  }

  run(): Promise<void> {
    return Promise.reject(new Error(NO_MEMORY));
  }

  runSync(): void {
    throw new Error(NO_MEMORY);
  }

  dispose(): void {
    this.real.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const NO_MEMORY = "this backend only plans: it has no memory to run programs in";

/** A sketch of the best CPU runtime there is here; kernels' workspaces depend on its threads. */
export async function openSketchBackend(options: RuntimeOptions = {}): Promise<SketchBackend> {
  const { runtime } = await openRuntime(options);
  return new SketchBackend(new SketchRuntime(runtime));
}
