import type { Program } from "../../graph/program.ts";
import type { Executable } from "../backend.ts";
import { CudaBackend, type CudaOptions } from "./backend.ts";
import type { CudaDevice } from "./device.ts";
import type { DeviceInfo } from "./driver.ts";

/** What kernels' workspaces depend on, of a card that need not be there: an A100's. */
const TYPICAL: DeviceInfo = {
  id: 0,
  index: 0,
  name: "an NVIDIA GPU",
  bytes: 80 * 2 ** 30,
  computeCapability: 80,
  multiprocessors: 108,
  sharedBytes: 163 * 1024,
  l2Bytes: 40 * 2 ** 20,
};
/** One that multiplies in 8 bits: an H100. */
const TYPICAL_FP8: DeviceInfo = {
  ...TYPICAL,
  computeCapability: 90,
  multiprocessors: 132,
  sharedBytes: 227 * 1024,
  l2Bytes: 50 * 2 ** 20,
};

/** Contexts and allocations that cost nothing: addresses are made up, contents are forgotten. */
class SketchDevice {
  readonly info: DeviceInfo;
  readonly kernelCapability: number;
  fp8 = false;
  allocated = 0;
  peak = 0;
  private next = 2 ** 32;

  constructor(info: DeviceInfo) {
    this.info = info;
    this.kernelCapability = info.computeCapability;
  }

  alloc(bytes: number): number {
    const address = this.next;
    this.next += Math.ceil(bytes / 256) * 256 + 256;
    return address;
  }

  free(): void {}
  clear(): void {}
  copy(): void {}
  upload(): void {}
  synchronize(): void {}
  dispose(): void {}

  allocPinned(bytes: number): bigint {
    return BigInt(this.alloc(bytes));
  }

  freePinned(): void {}

  view(): Uint8Array {
    return new Uint8Array(0);
  }

  download(_address: number, bytes: number): Uint8Array {
    return new Uint8Array(bytes);
  }
}

/**
 * The CUDA backend without memory, and without a card: tensors have sizes and no contents, programs are planned and never
 * run. What a training would need on a GPU is found out with it, anywhere.
 */
export class SketchCudaBackend extends CudaBackend {
  constructor(options: CudaOptions = {}, info: DeviceInfo = options.fp8 ? TYPICAL_FP8 : TYPICAL) {
    // Only what planning calls is there; the rest of a device runs programs.
    super(options, new SketchDevice(info) as unknown as CudaDevice);
  }

  override quantize(): void {}

  /** Nothing, of any length. */
  override dequantize(): Promise<Float32Array> {
    return Promise.resolve(new Float32Array(0));
  }

  override compile(program: Program): Executable {
    const execute = () => Promise.reject(new Error("this backend only plans: it has no memory to run programs in"));
    return { program, execute, dispose: () => undefined };
  }

  override freeMemory(): number {
    return this.device.info.bytes;
  }

  override dispose(): void {}
}
