import koffi from "koffi";
import type { Driver, Handle } from "./driver.ts";

/** First compute capability with programmatic dependent launches (Hopper), and the first driver that captures them. */
const CAPABILITY = 90;
const DRIVER_VERSION = 12030;
/** CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION. */
const ATTRIBUTE = 6;
/** sizeof(CUlaunchConfig), then one CUlaunchAttribute of 72 bytes. */
const CONFIG_BYTES = 56;
const ATTRIBUTE_BYTES = 72;

/**
 * Launches that may start before the kernel in front of them has ended (CUDA's programmatic dependent launch): kernels made
 * for it say where they wait for it. The launch, and what a kernel reads of its weights, is then hidden behind that kernel.
 */
export class OverlappingLaunches {
  private readonly driver: Driver;
  private readonly memory: unknown;
  private readonly address: bigint;
  private readonly words: DataView;

  /**
   * Null where the driver or the kernels have no such launches.
   * @param computeCapability what kernels are compiled for: below 9.0 they do not say where they wait
   */
  static for(driver: Driver, computeCapability: number, stream: Handle): OverlappingLaunches | null {
    const known = driver.has("cuLaunchKernelEx") && driver.version >= DRIVER_VERSION;
    return known && computeCapability >= CAPABILITY ? new OverlappingLaunches(driver, stream) : null;
  }

  private constructor(driver: Driver, stream: Handle) {
    const bytes = CONFIG_BYTES + ATTRIBUTE_BYTES;
    this.driver = driver;
    this.memory = koffi.alloc("uint8_t", bytes);
    this.address = BigInt(koffi.address(this.memory));
    this.words = new DataView(koffi.view(this.memory, bytes));
    for (let at = 0; at < bytes; at++) this.words.setUint8(at, 0);
    this.words.setBigUint64(32, BigInt(stream), true);
    this.words.setBigUint64(40, this.address + BigInt(CONFIG_BYTES), true);
    this.words.setUint32(48, 1, true);
    this.words.setUint32(CONFIG_BYTES, ATTRIBUTE, true);
    this.words.setInt32(CONFIG_BYTES + 8, 1, true);
  }

  /** As cuLaunchKernel with `extra` arguments; the driver's status. */
  launch(
    code: Handle,
    grid: readonly [number, number, number],
    threads: number,
    shared: number,
    extra: bigint,
  ): number {
    [...grid, threads, 1, 1, shared].forEach((word, i) => {
      this.words.setUint32(4 * i, word, true);
    });
    return this.driver.try("cuLaunchKernelEx", this.address, code, null, extra);
  }
}
