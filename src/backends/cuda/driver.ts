import koffi from "koffi";
import { CudaError, CudaLostError, CudaOutOfMemoryError, CudaUnavailableError } from "./errors.ts";
import { DRIVER, loadLibrary } from "./library.ts";

/** An address in the card's memory: below 2^53, so a number will do. */
export type DevicePointer = number;
/** A context, stream, module, function, event or graph. */
export type Handle = bigint;

const OUT_OF_MEMORY = 2;
/**
 * What a context does not survive: unavailable device, ECC and NVLink errors, illegal addresses and instructions, timeouts,
 * failed launches, a lost connection.
 */
const LOST = new Set([46, 214, 220, 226, 700, 702, 714, 715, 716, 717, 718, 719, 721, 999]);

/** Device attributes by CUDA's numbers. */
const ATTRIBUTE = { multiprocessors: 16, major: 75, minor: 76, sharedPerBlock: 97, l2Bytes: 38 } as const;

const SIGNATURES = {
  cuInit: "int cuInit(unsigned int)",
  cuDriverGetVersion: "int cuDriverGetVersion(void*)",
  cuDeviceGetCount: "int cuDeviceGetCount(void*)",
  cuDeviceGet: "int cuDeviceGet(void*, int)",
  cuDeviceGetName: "int cuDeviceGetName(void*, int, int)",
  cuDeviceTotalMem: "int cuDeviceTotalMem_v2(void*, int)",
  cuDeviceGetAttribute: "int cuDeviceGetAttribute(void*, int, int)",
  cuDevicePrimaryCtxRetain: "int cuDevicePrimaryCtxRetain(void*, int)",
  cuDevicePrimaryCtxRelease: "int cuDevicePrimaryCtxRelease_v2(int)",
  cuCtxSetCurrent: "int cuCtxSetCurrent(uint64_t)",
  cuMemGetInfo: "int cuMemGetInfo_v2(void*, void*)",
  cuMemAlloc: "int cuMemAlloc_v2(void*, size_t)",
  cuMemFree: "int cuMemFree_v2(uint64_t)",
  cuMemHostAlloc: "int cuMemHostAlloc(void*, size_t, unsigned int)",
  cuMemFreeHost: "int cuMemFreeHost(uint64_t)",
  cuMemHostRegister: "int cuMemHostRegister_v2(uint64_t, size_t, unsigned int)",
  cuMemHostUnregister: "int cuMemHostUnregister(uint64_t)",
  cuMemcpyHtoDAsync: "int cuMemcpyHtoDAsync_v2(uint64_t, uint64_t, size_t, uint64_t)",
  cuMemcpyDtoHAsync: "int cuMemcpyDtoHAsync_v2(uint64_t, uint64_t, size_t, uint64_t)",
  cuMemcpyDtoDAsync: "int cuMemcpyDtoDAsync_v2(uint64_t, uint64_t, size_t, uint64_t)",
  cuMemsetD8Async: "int cuMemsetD8Async(uint64_t, unsigned char, size_t, uint64_t)",
  cuMemsetD32Async: "int cuMemsetD32Async(uint64_t, unsigned int, size_t, uint64_t)",
  cuModuleLoadData: "int cuModuleLoadData(void*, void*)",
  cuModuleUnload: "int cuModuleUnload(uint64_t)",
  cuModuleGetFunction: "int cuModuleGetFunction(void*, uint64_t, const char*)",
  cuFuncSetAttribute: "int cuFuncSetAttribute(uint64_t, int, int)",
  cuLaunchKernel:
    "int cuLaunchKernel(uint64_t, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, uint64_t, void*, uint64_t)",
  cuLaunchKernelEx: "int cuLaunchKernelEx(uint64_t, uint64_t, void*, uint64_t)",
  cuStreamCreate: "int cuStreamCreate(void*, unsigned int)",
  cuStreamDestroy: "int cuStreamDestroy_v2(uint64_t)",
  cuStreamSynchronize: "int cuStreamSynchronize(uint64_t)",
  cuStreamQuery: "int cuStreamQuery(uint64_t)",
  cuStreamWaitEvent: "int cuStreamWaitEvent(uint64_t, uint64_t, unsigned int)",
  cuStreamBeginCapture: "int cuStreamBeginCapture_v2(uint64_t, int)",
  cuStreamEndCapture: "int cuStreamEndCapture(uint64_t, void*)",
  cuGraphInstantiate: "int cuGraphInstantiateWithFlags(void*, uint64_t, unsigned long long)",
  cuGraphLaunch: "int cuGraphLaunch(uint64_t, uint64_t)",
  cuGraphExecDestroy: "int cuGraphExecDestroy(uint64_t)",
  cuGraphDestroy: "int cuGraphDestroy(uint64_t)",
  cuEventCreate: "int cuEventCreate(void*, unsigned int)",
  cuEventDestroy: "int cuEventDestroy_v2(uint64_t)",
  cuEventRecord: "int cuEventRecord(uint64_t, uint64_t)",
  cuEventElapsedTime: "int cuEventElapsedTime(void*, uint64_t, uint64_t)",
} as const;

type Name = keyof typeof SIGNATURES;
/** Functions that older drivers do not have: see `has`. */
const OPTIONAL: ReadonlySet<string> = new Set<Name>(["cuLaunchKernelEx"]);
type Argument = number | bigint | string | ArrayBufferView | null;
type Call = (...args: Argument[]) => number;

/** The driver's functions, each checked: a failed call throws a CudaError with CUDA's own words. */
export class Driver {
  readonly path: string;
  /** 12040 is 12.4. */
  readonly version: number;
  /** The context is gone; everything fails from here on. */
  lost = false;
  private readonly calls: Record<Name, Call>;
  private readonly errorText: (status: number) => string;
  private readonly cell = new BigUint64Array(2);

  constructor() {
    const { handle, path } = loadLibrary(DRIVER);
    this.path = path;
    const bind = (signature: string): Call => handle.func(signature) as unknown as Call;
    this.calls = Object.fromEntries(
      Object.entries(SIGNATURES).flatMap(([name, signature]) => {
        try {
          return [[name, bind(signature)]];
        } catch (error) {
          if (OPTIONAL.has(name)) return [];
          throw error;
        }
      }),
    ) as Record<Name, Call>;
    const text = bind("int cuGetErrorString(int, void*)");
    this.errorText = (status) => {
      const out = new BigUint64Array(1);
      if (text(status, out) !== 0 || out[0] === 0n) return `CUDA error ${status}`;
      return String(koffi.decode(out[0]!, "char", -1));
    };
    const status = this.try("cuInit", 0);
    if (status !== 0) {
      throw new CudaUnavailableError(
        `the CUDA driver does not start (${this.errorText(status)}): check that nvidia-smi shows a card, and that ` +
          "CUDA_VISIBLE_DEVICES does not hide it",
        status,
      );
    }
    const version = new Int32Array(1);
    this.call("cuDriverGetVersion", version);
    this.version = version[0]!;
  }

  /** Whether this driver has a function that older ones lack. */
  has(name: Name): boolean {
    return this.calls[name] !== undefined;
  }

  /** The status of a call. */
  try(name: Name, ...args: Argument[]): number {
    return this.calls[name](...args);
  }

  call(name: Name, ...args: Argument[]): void {
    const status = this.calls[name](...args);
    if (status !== 0) throw this.failure(name, status);
  }

  /** A call whose first argument receives a handle or address. */
  create(name: Name, ...args: Argument[]): Handle {
    const cell = new BigUint64Array(1);
    this.call(name, cell, ...args);
    return cell[0]!;
  }

  /** A call whose second argument receives a handle. */
  create1(name: Name, first: Argument): Handle {
    const cell = new BigUint64Array(1);
    this.call(name, first, cell);
    return cell[0]!;
  }

  failure(what: string, status: number): CudaError {
    const text = `${what}: ${this.errorText(status)}`;
    if (LOST.has(status)) {
      this.lost = true;
      return new CudaLostError(
        `${text}. This process cannot use the GPU any more: start again and resume from the last checkpoint. If it ` +
          "happens again, look for Xid messages in the kernel's log (dmesg) and at `nvidia-smi -q`: a failing card says so there",
        status,
      );
    }
    return status === OUT_OF_MEMORY ? new CudaOutOfMemoryError(text, status) : new CudaError(text, status);
  }

  /** Free and total bytes of the current device. */
  memory(): { free: number; total: number } {
    this.call("cuMemGetInfo", this.cell.subarray(0, 1), this.cell.subarray(1, 2));
    return { free: Number(this.cell[0]), total: Number(this.cell[1]) };
  }

  devices(): DeviceInfo[] {
    const count = new Int32Array(1);
    this.call("cuDeviceGetCount", count);
    return Array.from({ length: count[0]! }, (_, index) => this.device(index));
  }

  private device(index: number): DeviceInfo {
    const out = new Int32Array(1);
    this.call("cuDeviceGet", out, index);
    const id = out[0]!;
    const name = new Uint8Array(256);
    this.call("cuDeviceGetName", name, 256, id);
    const bytes = this.create("cuDeviceTotalMem", id);
    const attribute = (code: number): number => {
      this.call("cuDeviceGetAttribute", out, code, id);
      return out[0]!;
    };
    return {
      id,
      index,
      name: Buffer.from(name).toString("utf8").replace(/\0.*$/s, ""),
      bytes: Number(bytes),
      computeCapability: 10 * attribute(ATTRIBUTE.major) + attribute(ATTRIBUTE.minor),
      multiprocessors: attribute(ATTRIBUTE.multiprocessors),
      sharedBytes: attribute(ATTRIBUTE.sharedPerBlock),
      l2Bytes: attribute(ATTRIBUTE.l2Bytes),
    };
  }
}

export interface DeviceInfo {
  readonly id: number;
  readonly index: number;
  readonly name: string;
  /** Bytes of memory. */
  readonly bytes: number;
  /** 90 is 9.0. */
  readonly computeCapability: number;
  readonly multiprocessors: number;
  /** Most shared memory of a block. */
  readonly sharedBytes: number;
  readonly l2Bytes: number;
}
