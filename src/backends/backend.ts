import type { Value } from "../graph/graph.ts";
import type { WorkspaceOf } from "../graph/liveness.ts";
import type { Program } from "../graph/program.ts";
import type { Rates } from "../graph/remat.ts";
import type { DType, FloatDType, Shape, Tensor } from "../graph/types.ts";

/** What a persistent tensor's memory is counted under. */
export type TensorRole = "weight" | "adapter" | "gradient" | "optimizer" | "cache" | "constant";

/** The arrays a tensor is made of: `data` for all; the others hold the scales of a quantised weight (see quant/). */
export type PartName = "data" | "absmax" | "nested" | "map";

export interface TensorOptions {
  readonly role: TensorRole;
  /** NF4: elements that share a scale (64). */
  readonly blockSize?: number;
  /** NF4: store the scales in 8 bits. */
  readonly doubleQuant?: boolean;
  /**
   * Keep it in host memory, which a backend with memory of its own reads over the bus: for tables of which a step reads few
   * rows.
   */
  readonly host?: boolean;
  /** Multiply with it in the type of the activations even where other weights are multiplied in 8 bits. */
  readonly precise?: boolean;
}

/** A tensor in a backend's memory. */
export interface DeviceTensor extends Tensor {
  readonly role: TensorRole;
  /** NF4 and int8 only. */
  readonly quantization: { readonly blockSize: number; readonly doubleQuant: boolean } | null;
  /** Bytes of each part. */
  readonly parts: ReadonlyMap<PartName, number>;
  /** The number added back to double-quantised scales. */
  nestedOffset: number;
  /** Copy bytes into a part, at a byte offset. */
  write(data: Uint8Array, at?: { part?: PartName; offset?: number }): void;
  /** A copy of a part's bytes. */
  read(part?: PartName): Promise<Uint8Array>;
  dispose(): void;
}

/** Bytes in use now, by what they are for, and the most there ever were. */
export interface BackendMemory {
  readonly allocated: number;
  readonly peak: number;
  readonly arena: number;
  readonly tensors: Readonly<Record<TensorRole, number>>;
  /** Of tensors in host memory, on a backend with memory of its own: not among the others. */
  readonly host?: number;
}

export type HostArray = Float32Array | Int32Array | Uint32Array | Uint8Array;

export interface ExecuteOptions {
  /** Outputs to copy back; all when left out. */
  readonly read?: readonly string[];
  readonly signal?: AbortSignal;
  /** Receives the nanoseconds of each program step. */
  readonly timings?: Float64Array;
}

/** A program made ready to run: fixed addresses, nothing allocated from here on. */
export interface Executable {
  readonly program: Program;
  /**
   * Fill the inputs, run, and copy outputs back (integers as floats too); one at a time on a backend, in call order. Throws when an input is
   * missing, unknown or of another length.
   */
  execute(inputs: Readonly<Record<string, HostArray>>, options?: ExecuteOptions): Promise<Record<string, Float32Array>>;
  dispose(): void;
}

/** Where tensors live and programs run. */
export interface Backend {
  readonly name: string;
  /** One line for people: instruction set and threads, or the GPU. */
  readonly description: string;
  readonly rates: Rates;
  /** Type of activations in models traced for this backend; f32 when left out. */
  readonly computeDtype?: FloatDType;
  /** Whether products of frozen weights are in 8 bits. */
  readonly fp8?: boolean;
  readonly workspaceOf: WorkspaceOf;
  /** Whether products that share an operand should run as one step (ops/matmul-group.ts, ops/product-groups.ts). */
  readonly groupsProducts?: boolean;
  createTensor(name: string, dtype: DType, shape: Shape, options: TensorOptions): DeviceTensor;
  /**
   * Fill an NF4 or int8 tensor from a dense source of `dtype`, a piece at a time: `read` copies source bytes from an offset into
   * the target. Never holds more than a few MiB of the source.
   */
  quantize(
    tensor: DeviceTensor,
    dtype: "f32" | "bf16" | "f16",
    read: (target: Uint8Array, offset: number) => void,
  ): void;
  /** f32 content of a tensor of any weight type. */
  dequantize(tensor: DeviceTensor): Promise<Float32Array>;
  compile(program: Program): Executable;
  memory(): BackendMemory;
  /** Bytes that could still be allocated, where the backend has memory of its own. */
  freeMemory?(): number;
  /** Fill freed arena memory with NaNs after every step of programs compiled from now on: shows reads of dead values. */
  poison: boolean;
  dispose(): void;
  [Symbol.dispose](): void;
}

/** Check host data for an input and give its bytes. */
export function inputBytes(name: string, value: Value, data: HostArray | undefined): Uint8Array {
  if (!data) throw new Error(`input "${name}" (${value}) was not given`);
  if (data.byteLength !== value.bytes) {
    throw new Error(`input "${name}" needs ${value.bytes} bytes for ${value}, found ${data.byteLength}`);
  }
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
