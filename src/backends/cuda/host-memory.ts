import koffi from "koffi";
import type { Driver } from "./driver.ts";
import { CudaOutOfMemoryError } from "./errors.ts";

/** Where Linux gives memory in large pages, and what its functions are called with (mman.h). */
const LIBC = "libc.so.6";
const LARGE_PAGE = 2 * 2 ** 20;
const [READ_WRITE, PRIVATE_ANONYMOUS] = [0x3, 0x22];
const [HUGE_PAGES, POPULATE_WRITE] = [14, 23];
/** mmap's MAP_FAILED. */
const FAILED = 2n ** 64n - 1n;
/** From here on memory for copies is mapped here and registered; below, the driver's own is as quick. */
const MAPPED_BYTES = 64 * 2 ** 20;
/** Threads that touch pages ahead of the driver: as many as libuv's pool has. */
const HELPERS = 4;

interface Mapping {
  readonly start: bigint;
  readonly bytes: bigint;
}

/** Who reads and writes memory of the host besides the host: only copies, or kernels too. */
export type HostUse = "copies" | "kernels";

/** Of a driver, what page-locked memory needs. */
export type HostDriver = Pick<Driver, "try" | "failure" | "lost">;

/**
 * Page-locked host memory. The driver's own comes in pages of 4 KiB, zeroed and locked one by one on one thread: 8 GiB took
 * 4.7 s on a host of an H100. Large pages that several threads touch while the driver locks them took a seventh of that, and
 * copies are as fast; where the system gives none, the driver's memory is used, and for what kernels read: not every system lets
 * them read registered memory at the host's address.
 */
export class HostMemory {
  private readonly mappings = new Map<bigint, Mapping>();
  private readonly driver: HostDriver;

  constructor(driver: HostDriver) {
    this.driver = driver;
  }

  /** The address of `bytes` bytes, for kernels or for copies alone; CudaOutOfMemoryError when the host has no room for them. */
  alloc(bytes: number, use: HostUse): bigint {
    const address = use === "copies" && bytes >= MAPPED_BYTES ? this.map(bytes) : null;
    if (address !== null) return address;
    const cell = new BigUint64Array(1);
    const status = this.driver.try("cuMemHostAlloc", cell, Math.max(bytes, 64), 0);
    if (status === 0) return cell[0]!;
    const failure = this.driver.failure("cuMemHostAlloc", status);
    if (!(failure instanceof CudaOutOfMemoryError)) throw failure;
    throw new CudaOutOfMemoryError(
      `the host has no room for ${(bytes / 2 ** 30).toFixed(2)} GiB of page-locked memory. What helps: shorter sequences or ` +
        "a smaller batch, activationOffloading: false, or ending other programs (free -g shows what there is; a container " +
        "may have a limit)",
      status,
    );
  }

  free(address: bigint): void {
    const status = this.release(address);
    if (status !== 0 && !this.driver.lost) throw this.driver.failure("freeing page-locked memory", status);
  }

  /** The same, with the driver's status for an error: for where all is closed whatever comes. */
  release(address: bigint): number {
    const mapping = this.mappings.get(address);
    if (!mapping) return this.driver.try("cuMemFreeHost", address);
    this.mappings.delete(address);
    const status = this.driver.try("cuMemHostUnregister", address);
    libc()!.munmap(mapping.start, mapping.bytes);
    return status;
  }

  /** Memory of its own, locked; null where that cannot be. */
  private map(bytes: number): bigint | null {
    const system = libc();
    if (!system) return null;
    const size = Math.ceil(bytes / LARGE_PAGE) * LARGE_PAGE;
    const mapping = { start: 0n, bytes: BigInt(size + LARGE_PAGE) };
    mapping.start = BigInt.asUintN(64, system.mmap(0n, mapping.bytes, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0n));
    if (mapping.start === FAILED) return null;
    const page = BigInt(LARGE_PAGE);
    const address = ((mapping.start + page - 1n) / page) * page;
    system.madvise(address, BigInt(size), HUGE_PAGES);
    // These run while the driver locks the first pages. One that ends later finds its pages there, or no mapping any more.
    const share = Math.ceil(size / LARGE_PAGE / HELPERS) * LARGE_PAGE;
    for (let at = 0; at < size; at += share)
      system.populate(address + BigInt(at), BigInt(Math.min(share, size - at)), POPULATE_WRITE);
    if (this.driver.try("cuMemHostRegister", address, size, 0) !== 0) {
      system.munmap(mapping.start, mapping.bytes);
      return null;
    }
    this.mappings.set(address, mapping);
    return address;
  }
}

interface SystemCalls {
  mmap(at: bigint, bytes: bigint, protection: number, flags: number, file: number, offset: bigint): bigint;
  madvise(at: bigint, bytes: bigint, advice: number): number;
  /** madvise on another thread; what comes of it is not waited for. */
  populate(at: bigint, bytes: bigint, advice: number): void;
  munmap(at: bigint, bytes: bigint): number;
}

let calls: SystemCalls | null | undefined;

/** The C library's calls; null where there is none of Linux's. */
function libc(): SystemCalls | null {
  if (calls !== undefined) return calls;
  calls = null;
  if (process.platform !== "linux") return calls;
  try {
    const library = koffi.load(LIBC);
    const mmap = library.func("int64_t mmap(uint64_t, uint64_t, int, int, int, int64_t)");
    const madvise = library.func("int madvise(uint64_t, uint64_t, int)");
    const munmap = library.func("int munmap(uint64_t, uint64_t)");
    calls = {
      mmap: (...args) => BigInt(mmap(...args) as number | bigint),
      madvise: (...args) => madvise(...args) as number,
      populate: (...args) => madvise.async(...args, () => {}),
      munmap: (...args) => munmap(...args) as number,
    };
  } catch {
    // Another C library (musl): the driver's memory it is.
  }
  return calls;
}
