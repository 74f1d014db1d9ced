import koffi from "koffi";
import { CublasLt, PRODUCT_WORKSPACE, type Product, type ProductOperands } from "./cublaslt.ts";
import { type DeviceInfo, type DevicePointer, Driver, type Handle } from "./driver.ts";
import { CudaError, CudaOutOfMemoryError, CudaUnavailableError } from "./errors.ts";
import { HostMemory, type HostUse } from "./host-memory.ts";
import { type Defines, type KernelArgument, Kernels, packArguments } from "./kernels.ts";
import { Nvrtc } from "./nvrtc.ts";
import { OverlappingLaunches } from "./overlap.ts";
import {
  capabilityOf,
  capabilityText,
  isPtx,
  OLDEST_CAPABILITY,
  presented,
  ptxCapability,
  type Target,
  targetFor,
} from "./target.ts";

/** A kernel and how many threads run it. */
export interface Launch {
  /** File in kernels/, without ".cu". */
  readonly file: string;
  readonly defines: Defines;
  readonly kernel: string;
  readonly grid: readonly [number, number?, number?];
  readonly threads: number;
  readonly sharedBytes?: number;
  /** The kernel waits by itself for the one in front of it (overlap.ts). */
  readonly overlap?: boolean;
  readonly args: readonly KernelArgument[];
}

/** A prepared piece of work: enqueues itself. */
export type Command = () => void;

const STREAM_NON_BLOCKING = 1;
const CAPTURE_RELAXED = 2;
const NOT_READY = 600;
const STAGING_BYTES = 16 * 2 ** 20;
const ARGUMENT_BYTES = 4096;
/** Waiting spins for this long before it sleeps between looks, in ms: decoding steps are shorter. */
const SPIN_MS = 3;

/** One GPU: its context, a stream, memory, compiled kernels and products. */
export class CudaDevice {
  readonly info: DeviceInfo;
  readonly driver: Driver;
  readonly nvrtc: Nvrtc;
  readonly target: Target;
  readonly lt: CublasLt;
  readonly stream: Handle;
  /** For copies beside what `stream` does. */
  readonly copyStream: Handle;
  /** Programs are to multiply frozen weights in e4m3. */
  fp8 = false;
  allocated = 0;
  peak = 0;
  private readonly kernels: Kernels;
  private readonly sizes = new Map<DevicePointer, number>();
  private readonly hostMemory: HostMemory;
  private readonly staging: { address: bigint; bytes: Uint8Array };
  private readonly argumentMemory: Uint8Array;
  private readonly argumentExtra: bigint;
  private readonly argumentSize: DataView;
  private readonly productWorkspace: DevicePointer;
  private readonly overlapping: OverlappingLaunches | null;
  private disposed = false;

  /** Throws CudaUnavailableError when there is no driver, no such card, or a library is missing. */
  constructor(index = 0) {
    this.driver = new Driver();
    const devices = this.driver.devices();
    const card = devices[index];
    if (!card) throw new CudaUnavailableError(`there is no GPU ${index}: the driver shows ${devices.length}`);
    if (card.computeCapability < OLDEST_CAPABILITY) {
      throw new CudaUnavailableError(
        `${card.name} has compute capability ${capabilityText(card.computeCapability)}; 7.0 (Volta) is the oldest supported: use the CPU backend`,
      );
    }
    const ptx = ptxCapability();
    const info = presented(card, ptx);
    this.info = info;
    this.nvrtc = new Nvrtc();
    this.target = targetFor(info, this.nvrtc, ptx);
    const context = this.driver.create("cuDevicePrimaryCtxRetain", info.id);
    this.driver.call("cuCtxSetCurrent", context);
    this.kernels = new Kernels(this.driver, this.nvrtc, this.target);
    this.tryKernels();
    this.stream = this.driver.create("cuStreamCreate", STREAM_NON_BLOCKING);
    this.overlapping = OverlappingLaunches.for(this.driver, this.kernelCapability, this.stream);
    this.copyStream = this.driver.create("cuStreamCreate", STREAM_NON_BLOCKING);
    this.lt = new CublasLt();
    this.productWorkspace = this.alloc(PRODUCT_WORKSPACE);
    this.hostMemory = new HostMemory(this.driver);
    this.staging = this.pinned(STAGING_BYTES);
    const memory = koffi.alloc("uint8_t", ARGUMENT_BYTES) as unknown;
    const base = BigInt(koffi.address(memory));
    this.argumentMemory = new Uint8Array(koffi.view(memory, ARGUMENT_BYTES));
    this.argumentSize = new DataView(this.argumentMemory.buffer, ARGUMENT_BYTES - 64, 64);
    // CU_LAUNCH_PARAM_BUFFER_POINTER (1), _SIZE (2), _END (0).
    const sizeAt = base + BigInt(ARGUMENT_BYTES - 64);
    this.argumentExtra = sizeAt + 8n;
    [1n, base, 2n, sizeAt, 0n].forEach((word, i) => this.argumentSize.setBigUint64(8 + 8 * i, word, true));
  }

  /** The compute capability kernels are compiled for: the card's, or an older one where NVRTC does not know the card. */
  get kernelCapability(): number {
    return capabilityOf(this.target);
  }

  /** Whether the driver takes PTX shows with the first module: now, where the CPU can still be used instead. */
  private tryKernels(): void {
    if (!isPtx(this.target)) return;
    try {
      this.kernels.function("cache", { T: "float", C: "float" }, "kv_write");
    } catch (error) {
      this.driver.try("cuDevicePrimaryCtxRelease", this.info.id);
      throw error;
    }
  }

  alloc(bytes: number): DevicePointer {
    const cell = new BigUint64Array(1);
    const status = this.driver.try("cuMemAlloc", cell, Math.max(bytes, 256));
    if (status !== 0) {
      const failure = this.driver.failure("cuMemAlloc", status);
      if (!(failure instanceof CudaOutOfMemoryError)) throw failure;
      const { free, total } = this.driver.memory();
      throw new CudaOutOfMemoryError(
        `the GPU has no room for ${gib(bytes)} more: ${gib(free)} of ${gib(total)} free, ${gib(this.allocated)} ours. ` +
          "What helps: a smaller batch or shorter sequences, useGradientCheckpointing, loadIn4bit, the 8-bit optimizer, " +
          "or ending other programs on this card (nvidia-smi shows them)",
        status,
      );
    }
    const address = Number(cell[0]);
    this.sizes.set(address, bytes);
    this.allocated += bytes;
    this.peak = Math.max(this.peak, this.allocated);
    return address;
  }

  free(address: DevicePointer): void {
    const bytes = this.sizes.get(address);
    if (bytes === undefined) throw new CudaError(`address ${address} was not allocated here, or is free already`);
    this.sizes.delete(address);
    this.allocated -= bytes;
    if (!this.driver.lost) this.driver.call("cuMemFree", address);
  }

  /** Page-locked host memory for copies, as bytes too. */
  pinned(bytes: number): { address: bigint; bytes: Uint8Array } {
    const address = this.allocPinned(bytes, "copies");
    return { address, bytes: this.view(address, bytes) };
  }

  /** Host memory as bytes. */
  view(address: bigint, bytes: number): Uint8Array {
    return new Uint8Array(koffi.view(address, bytes));
  }

  /** Page-locked host memory. */
  allocPinned(bytes: number, use: HostUse): bigint {
    return this.hostMemory.alloc(bytes, use);
  }

  freePinned(address: bigint): void {
    this.hostMemory.free(address);
  }

  upload(address: DevicePointer, data: Uint8Array): void {
    for (let at = 0; at < data.byteLength; at += STAGING_BYTES) {
      const piece = data.subarray(at, at + STAGING_BYTES);
      this.staging.bytes.set(piece);
      this.driver.call("cuMemcpyHtoDAsync", address + at, this.staging.address, piece.byteLength, this.stream);
      this.synchronize();
    }
  }

  download(address: DevicePointer, bytes: number): Uint8Array {
    const data = new Uint8Array(bytes);
    for (let at = 0; at < bytes; at += STAGING_BYTES) {
      const size = Math.min(STAGING_BYTES, bytes - at);
      this.driver.call("cuMemcpyDtoHAsync", this.staging.address, address + at, size, this.stream);
      this.synchronize();
      data.set(this.staging.bytes.subarray(0, size), at);
    }
    return data;
  }

  clear(address: DevicePointer, bytes: number, byte = 0): void {
    if (bytes > 0) this.driver.call("cuMemsetD8Async", address, byte, bytes, this.stream);
  }

  copy(target: DevicePointer, source: DevicePointer, bytes: number): void {
    if (bytes > 0 && target !== source) this.driver.call("cuMemcpyDtoDAsync", target, source, bytes, this.stream);
  }

  /**
   * A launch that can be enqueued any number of times: its arguments packed, its kernel compiled when it is first enqueued, if
   * other threads have not done that by then (`kernelsReady`).
   */
  prepare(launch: Launch): Command {
    const { file, defines, kernel, grid, threads, sharedBytes = 0, overlap = false } = launch;
    if (sharedBytes > this.info.sharedBytes) {
      throw new CudaError(
        `${kernel} wants ${sharedBytes} bytes of shared memory; a block has ${this.info.sharedBytes}`,
      );
    }
    const find = this.kernels.later(file, defines, kernel, sharedBytes);
    let code: Handle | undefined;
    const packed = packArguments(launch.args);
    const [x, y = 1, z = 1] = grid;
    if (x < 1 || y < 1 || z < 1) return () => undefined;
    return () => {
      code ??= find();
      this.argumentMemory.set(packed);
      this.argumentSize.setBigUint64(0, BigInt(packed.byteLength), true);
      const size = [x, y, z, threads, 1, 1, sharedBytes] as const;
      const status =
        overlap && this.overlapping
          ? this.overlapping.launch(code, [x, y, z], threads, sharedBytes, this.argumentExtra)
          : this.driver.try("cuLaunchKernel", code, ...size, this.stream, null, this.argumentExtra);
      if (status !== 0) throw this.driver.failure(`launch of ${kernel}`, status);
    };
  }

  /** Enqueue a launch now. */
  launch(launch: Launch): void {
    const { file, defines, kernel, sharedBytes } = launch;
    this.kernels.function(file, defines, kernel, sharedBytes);
    this.prepare(launch)();
  }

  /** Until the kernels of launches prepared so far are compiled; null when they are. Rejects with what does not compile. */
  kernelsReady(): Promise<unknown> | null {
    return this.kernels.ready();
  }

  product(product: Product, at: ProductOperands): Command {
    // What the library has no algorithm for is found out now, not in the middle of a run.
    this.lt.plan(product);
    return () => this.lt.run(product, at, this.productWorkspace, this.stream);
  }

  /** Record what `enqueue` does as a graph that one call replays. */
  capture(enqueue: () => void): { launch: Command; dispose: () => void } {
    const { driver, stream } = this;
    driver.call("cuStreamBeginCapture", stream, CAPTURE_RELAXED);
    let graph: Handle;
    try {
      enqueue();
    } finally {
      graph = driver.create1("cuStreamEndCapture", stream);
    }
    const executable = driver.create("cuGraphInstantiate", graph, 0);
    driver.call("cuGraphDestroy", graph);
    return {
      launch: () => driver.call("cuGraphLaunch", executable, stream),
      dispose: () => driver.call("cuGraphExecDestroy", executable),
    };
  }

  /** Blocks this thread until the stream is empty. */
  synchronize(): void {
    if (!this.driver.lost) this.driver.call("cuStreamSynchronize", this.stream);
  }

  /** Waits for the stream with the event loop running. */
  async finished(): Promise<void> {
    const started = performance.now();
    for (;;) {
      const status = this.driver.try("cuStreamQuery", this.stream);
      if (status === 0) return;
      if (status !== NOT_READY) throw this.driver.failure("a kernel failed", status);
      const spin = performance.now() - started < SPIN_MS;
      await new Promise<void>((resolve) => (spin ? setImmediate(resolve) : setTimeout(resolve, 1)));
    }
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.driver.try("cuStreamSynchronize", this.stream);
    this.lt.dispose();
    this.kernels.dispose();
    for (const address of this.sizes.keys()) this.driver.try("cuMemFree", address);
    this.sizes.clear();
    this.hostMemory.release(this.staging.address);
    for (const stream of [this.stream, this.copyStream]) this.driver.try("cuStreamDestroy", stream);
    this.driver.try("cuDevicePrimaryCtxRelease", this.info.id);
  }
}

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`;
