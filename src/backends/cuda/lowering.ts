import type { Node, Value } from "../../graph/graph.ts";
import { type FloatDType, GraphError, isFloat, numel } from "../../graph/types.ts";
import type { Product, ProductOperands } from "./cublaslt.ts";
import type { Launch } from "./device.ts";
import type { DevicePointer } from "./driver.ts";
import { cType, type Defines, float, int, type KernelArgument, long, pointer } from "./kernels.ts";
import type { CudnnLowering } from "./lower-cudnn.ts";
import type { CudaTensor } from "./tensor.ts";

/** What lowering a node may ask for and do. While only the workspace is sized, addresses are 0 and nothing is enqueued. */
export interface Lowering {
  readonly multiprocessors: number;
  readonly computeCapability: number;
  /** Whether frozen weights are to be multiplied in e4m3. */
  readonly fp8?: boolean;
  /** Address of a value; 0 when it is absent. */
  address(value: Value | null | undefined): DevicePointer;
  tensor(value: Value): CudaTensor;
  /** Memory that this node has for itself while it runs. */
  scratch(bytes: number): DevicePointer;
  /** Run `body`, whose scratch is free again afterwards. */
  scoped(body: () => void): void;
  launch(launch: Launch): void;
  product(product: Product, at: ProductOperands): void;
  copy(target: DevicePointer, source: DevicePointer, bytes: number): void;
  clear(target: DevicePointer, bytes: number): void;
  /**
   * Work of a size that the host knows when a run starts: `emit` is given the number of labels that are not negative,
   * rounded up to `step`. It may be called often, with any scratch taken before.
   */
  sized(labels: Value, step: number, emit: (labelled: number) => void): void;
  /** Copies to and from host memory that activations are offloaded to, beside other work until `wait`. */
  offload(node: Node): void;
  fetch(node: Node): void;
  wait(node: Node): void;
  /** Attention by cuDNN, where there is one. */
  readonly cudnn?: CudnnLowering | null;
}

export type Lower = (node: Node, to: Lowering) => void;

export const size = (value: Value): number => numel(value.shape);
export const rowsOf = (value: Value): number => (value.shape.length === 1 ? 1 : value.shape[0]!);
export const colsOf = (value: Value): number => value.shape[value.shape.length - 1]!;
export const number = (node: Node, name: string): number => node.attrs[name] as number;

/** A value's type, which must be a floating-point array. */
export function floatOf(value: Value): FloatDType {
  if (isFloat(value.dtype)) return value.dtype;
  throw new GraphError(`the CUDA backend needs a floating-point array here, found ${value}`);
}

export const typed = (value: Value): Defines => ({ T: cType(floatOf(value)) });

const THREADS = 256;

/** A launch of enough threads for `work` items, each thread taking several when there are very many. */
export function spread(
  to: Lowering,
  file: string,
  defines: Defines,
  kernel: string,
  work: number,
  args: readonly KernelArgument[],
): void {
  const blocks = Math.min(Math.ceil(work / THREADS), 16 * to.multiprocessors);
  to.launch({ file, defines, kernel, grid: [blocks], threads: THREADS, args });
}

/** Arguments that fill an array of `length` 8-byte words of a kernel's parameter block. */
export const padded = (length: number, args: readonly KernelArgument[]): KernelArgument[] => [
  ...args,
  ...Array.from({ length: length - args.length }, () => long(0)),
];

/** Threads of a block that works on one row of `length` elements, `each` a thread at a time. */
export const rowThreads = (length: number, each = 1): number =>
  Math.min(1024, Math.max(32, 32 * Math.ceil(length / each / 32)), 512);

/** A matrix of any storage type as a dense array of `dtype`: its own memory, or decoded into the node's workspace. */
export function dense(to: Lowering, value: Value, dtype: FloatDType): DevicePointer {
  if (value.dtype === dtype) return to.address(value);
  const out = to.scratch(size(value) * (dtype === "f32" ? 4 : 2));
  denseAt(to, value, dtype, out);
  return out;
}

/** A matrix of another type as a dense array of `dtype` at an address. */
export function denseAt(to: Lowering, value: Value, dtype: FloatDType, out: DevicePointer): void {
  const n = size(value);
  if (value.dtype === "nf4" || value.dtype === "int8") decodeQuantized(to, to.tensor(value), dtype, out);
  else {
    const defines = { T: cType(dtype), A: cType(floatOf(value)), B: "float", Y: cType(dtype) };
    spread(to, "elementwise", defines, "cast", n, [long(n), pointer(to.address(value)), pointer(out)]);
  }
}

const DECODED_PER_BLOCK = 256 * 4 * 8;

/** Decode a whole quantised weight, row after row or into rows of `pitch` elements. */
export function decodeQuantized(
  to: Pick<Lowering, "launch">,
  tensor: CudaTensor,
  dtype: FloatDType,
  out: DevicePointer,
  pitch = 0,
): void {
  if (tensor.dtype === "nf4") {
    decodeNf4(to, tensor, dtype, out, pitch);
    return;
  }
  const n = numel(tensor.shape);
  to.launch({
    file: "int8",
    defines: { T: cType(dtype), PITCHED: pitch > 0 ? 1 : 0 },
    kernel: "int8_decode",
    grid: [Math.ceil(n / DECODED_PER_BLOCK)],
    threads: THREADS,
    args: [
      long(n),
      pointer(tensor.address()),
      pointer(tensor.address("absmax")),
      int(Math.log2(tensor.quantization!.blockSize)),
      int(tensor.shape[tensor.shape.length - 1]!),
      int(pitch),
      pointer(out),
    ],
  });
}

/** Decode a whole 4-bit weight, row after row or into rows of `pitch` elements. */
export function decodeNf4(
  to: Pick<Lowering, "launch">,
  tensor: CudaTensor,
  dtype: FloatDType,
  out: DevicePointer,
  pitch = 0,
): void {
  const { blockSize, doubleQuant } = tensor.quantization!;
  const n = numel(tensor.shape);
  const [nested, map] = doubleQuant ? [tensor.address("nested"), tensor.address("map")] : [0, 0];
  to.launch({
    file: "nf4",
    defines: { T: cType(dtype), PITCHED: pitch > 0 ? 1 : 0 },
    kernel: "nf4_decode",
    grid: [Math.ceil(n / DECODED_PER_BLOCK)],
    threads: THREADS,
    args: [
      long(n),
      pointer(tensor.address()),
      pointer(tensor.address("absmax")),
      pointer(nested),
      pointer(map),
      float(tensor.nestedOffset),
      int(Math.log2(blockSize)),
      int(tensor.shape[tensor.shape.length - 1]!),
      int(pitch),
      pointer(out),
    ],
  });
}

/** out = bias (+ acc), what a product with a bias is added to. */
export function addBias(
  to: Lowering,
  at: { acc: Value | null; bias: Value; out: number; n: number; cols: number },
  output: FloatDType,
): void {
  const type = cType(output);
  spread(to, "elementwise", { T: type, A: type, B: "float", Y: type }, "add_bias", at.n, [
    long(at.n),
    long(at.cols),
    pointer(to.address(at.acc)),
    pointer(to.address(at.bias)),
    pointer(at.out),
  ]);
}
