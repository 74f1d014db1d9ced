import type { Node } from "../../graph/graph.ts";
import type { Program } from "../../graph/program.ts";
import type { Rates } from "../../graph/remat.ts";
import { type DType, type FloatDType, GraphError, isFloat, numel, type Shape } from "../../graph/types.ts";
import { quantizeInt8Pieces } from "../../quant/int8.ts";
import { nestAbsmax } from "../../quant/nf4.ts";
import type { Backend, BackendMemory, DeviceTensor, Executable, TensorOptions, TensorRole } from "../backend.ts";
import { Arena } from "./arena.ts";
import { closeCudnn } from "./cudnn-attention.ts";
import { CudaDevice } from "./device.ts";
import { CudaExecutable, workspaceOf } from "./executable.ts";
import { cType, long, pointer } from "./kernels.ts";
import { decodeQuantized } from "./lowering.ts";
import { capabilityText } from "./target.ts";
import { CudaTensor } from "./tensor.ts";

/** Source elements quantised at a time: a multiple of every block size. */
const QUANTIZE_PIECE = 2 ** 22;
/** First compute capability with bf16 arithmetic (Ampere). */
const BF16_CAPABILITY = 80;
/** First with e4m3 arithmetic (Ada). */
const FP8_CAPABILITY = 89;

export interface CudaOptions {
  /** Which GPU, counted as the driver shows them. Default 0. */
  readonly device?: number;
  /** Type of activations: bf16 where the card has it, else f16. */
  readonly computeDtype?: FloatDType;
  /**
   * Multiply frozen weights, but those to be precise, in e4m3 with a scale a row. Needs compute capability 8.9. Default
   * false.
   */
  readonly fp8?: boolean;
}

/** One NVIDIA GPU: tensors in its memory, one arena for the activations of whatever program runs, programs as CUDA graphs. */
export class CudaBackend implements Backend {
  readonly name = "cuda";
  readonly description: string;
  readonly computeDtype: FloatDType;
  readonly fp8: boolean;
  readonly device: CudaDevice;
  readonly groupsProducts = true;
  poison = false;
  // What counts is the ratio of arithmetic to traffic, and of both to the bus; an H100's.
  readonly rates: Rates = {
    flopsPerSecond: 5e14,
    bytesPerSecond: 2.5e12,
    hostBytesPerSecond: 2.5e10,
    copiesOverlap: true,
  };
  private readonly tensors = new Set<CudaTensor>();
  private readonly arena: Arena;

  /** On `device`, or the one of the options. Throws CudaUnavailableError, RangeError. */
  constructor(options: CudaOptions = {}, device: CudaDevice = new CudaDevice(options.device ?? 0)) {
    this.device = device;
    this.fp8 = options.fp8 ?? false;
    const { name, computeCapability, bytes } = this.device.info;
    const hasBf16 = computeCapability >= BF16_CAPABILITY;
    this.computeDtype = options.computeDtype ?? (hasBf16 ? "bf16" : "f16");
    if (this.computeDtype === "bf16" && !hasBf16) {
      this.device.dispose();
      throw new RangeError(`${name} has no bfloat16, which needs compute capability 8.0: use float16 or float32`);
    }
    if (this.fp8 && (computeCapability < FP8_CAPABILITY || this.computeDtype !== "bf16")) {
      this.device.dispose();
      throw new RangeError(
        `fp8 needs compute capability 8.9 and bfloat16 activations; ${name} has ${computeCapability / 10}, computing in ${this.computeDtype}`,
      );
    }
    if (this.fp8 && this.device.kernelCapability < FP8_CAPABILITY) {
      const made = capabilityText(this.device.kernelCapability);
      this.device.dispose();
      throw new RangeError(`fp8 needs kernels for 8.9; the NVRTC found makes them for ${made}: install a newer one`);
    }
    this.device.fp8 = this.fp8;
    this.arena = new Arena(this.device);
    const capability = capabilityText(computeCapability);
    this.description = `${name}, ${Math.round(bytes / 2 ** 30)} GiB, compute capability ${capability}, ${this.computeDtype}`;
  }

  readonly workspaceOf = (node: Node): number => workspaceOf(this.device, node);

  createTensor(name: string, dtype: DType, shape: Shape, options: TensorOptions): CudaTensor {
    const tensor = new CudaTensor(this.device, name, dtype, shape, options, (t) => this.tensors.delete(t));
    this.tensors.add(tensor);
    return tensor;
  }

  quantize(
    tensor: DeviceTensor,
    dtype: "f32" | "bf16" | "f16",
    read: (target: Uint8Array, offset: number) => void,
  ): void {
    if (!(tensor instanceof CudaTensor) || !tensor.quantization)
      throw new GraphError(`${tensor.name} is not a quantised tensor`);
    if (tensor.dtype === "int8") {
      const write = (part: "data" | "absmax", bytes: Uint8Array, offset: number) =>
        tensor.write(bytes, { part, offset });
      quantizeInt8Pieces(numel(tensor.shape), dtype, read, write);
      return;
    }
    const { blockSize, doubleQuant } = tensor.quantization;
    const { device } = this;
    const count = numel(tensor.shape);
    const size = dtype === "f32" ? 4 : 2;
    const blocks = Math.ceil(count / blockSize);
    const buffer = new Uint8Array(Math.min(count, QUANTIZE_PIECE) * size);
    const source = device.alloc(buffer.byteLength);
    const absmax = doubleQuant ? device.alloc(4 * blocks) : tensor.address("absmax");
    try {
      for (let at = 0; at < count; at += QUANTIZE_PIECE) {
        const n = Math.min(QUANTIZE_PIECE, count - at);
        const piece = buffer.subarray(0, n * size);
        read(piece, at * size);
        device.upload(source, piece);
        this.device.launch({
          file: "nf4",
          defines: { T: cType(dtype) },
          kernel: "nf4_quantize",
          grid: [Math.ceil(Math.ceil(n / blockSize) / 8)],
          threads: 256,
          args: [
            long(n),
            long(blockSize),
            pointer(source),
            pointer(tensor.address() + at / 2),
            pointer(absmax + (4 * at) / blockSize),
          ],
        });
      }
      if (!doubleQuant) return;
      const nested = nestAbsmax(new Float32Array(device.download(absmax, 4 * blocks).buffer));
      tensor.write(nested.codes, { part: "absmax" });
      tensor.write(bytesOf(nested.absmax), { part: "nested" });
      tensor.write(bytesOf(nested.map), { part: "map" });
      tensor.nestedOffset = nested.offset;
    } finally {
      device.free(source);
      if (doubleQuant) device.free(absmax);
    }
  }

  dequantize(tensor: DeviceTensor): Promise<Float32Array> {
    return this.arena.exclusive(async () => {
      if (!(tensor instanceof CudaTensor)) throw new GraphError(`${tensor.name} is not a tensor of the CUDA backend`);
      const { device } = this;
      const count = numel(tensor.shape);
      if (tensor.dtype === "f32") return new Float32Array(device.download(tensor.address(), 4 * count).buffer);
      const out = device.alloc(4 * count);
      try {
        if (tensor.quantization)
          decodeQuantized({ launch: (launch) => this.device.launch(launch) }, tensor, "f32", out);
        else {
          if (!isFloat(tensor.dtype)) throw new GraphError(`${tensor.name} of type ${tensor.dtype} is not a weight`);
          this.device.launch({
            file: "elementwise",
            defines: { T: "float", A: cType(tensor.dtype), B: "float", Y: "float" },
            kernel: "cast",
            grid: [Math.ceil(count / 256)],
            threads: 256,
            args: [long(count), pointer(tensor.address()), pointer(out)],
          });
        }
        return new Float32Array(device.download(out, 4 * count).buffer);
      } finally {
        device.free(out);
      }
    });
  }

  compile(program: Program): Executable {
    return new CudaExecutable(this.device, this.arena, program, this.poison);
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
    let host = 0;
    for (const tensor of this.tensors) {
      if (tensor.host) host += tensor.bytes;
      else tensors[tensor.role] += tensor.bytes;
    }
    const { allocated, peak } = this.device;
    return { allocated, peak, arena: this.arena.bytes, tensors, host };
  }

  /** Bytes that the card has free, and those of the arena, which a larger one would replace. */
  freeMemory(): number {
    return this.device.driver.memory().free + this.arena.bytes;
  }

  dispose(): void {
    this.arena.dispose();
    closeCudnn(this.device);
    this.device.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const bytesOf = (array: Float32Array): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/** The CUDA backend on a GPU. Throws CudaUnavailableError saying what is missing and how to get it. */
export async function openCudaBackend(options: CudaOptions = {}): Promise<CudaBackend> {
  return new CudaBackend(options);
}
