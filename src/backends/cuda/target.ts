import { sharedLimit } from "./attention-tiles.ts";
import type { DeviceInfo } from "./driver.ts";
import { CudaUnavailableError } from "./errors.ts";

/** What kernels are compiled to, as NVRTC calls it: machine code of one kind of card, or PTX, which the driver compiles. */
export type Target = `sm_${number}` | `compute_${number}`;

export const isPtx = (target: Target): boolean => target.startsWith("compute_");

/** The compute capability that a target's kernels are written for, 90 for 9.0. */
export const capabilityOf = (target: Target): number => Number(target.slice(target.indexOf("_") + 1));

/** Oldest cards the kernels are for (Volta). */
export const OLDEST_CAPABILITY = 70;

/** "8.0" of 80. */
export const capabilityText = (capability: number): string => `${Math.floor(capability / 10)}.${capability % 10}`;

/** What of NVRTC decides. */
export interface Compiler {
  /** [major, minor] */
  readonly version: readonly [number, number];
  /** Compute capabilities it compiles for; null: it does not say (before 11.2). */
  readonly supported: readonly number[] | null;
}

const PTX_VARIABLE = "UNSLOTH_CUDA_PTX";

/**
 * The compute capability that UNSLOTH_CUDA_PTX asks for ("7.5" or "75"), a debug switch: the card is used as one of that
 * capability, its kernels are PTX. Null where it is not set. Throws CudaUnavailableError when it is no compute capability.
 */
export function ptxCapability(text: string | undefined = process.env[PTX_VARIABLE]): number | null {
  if (text === undefined || text === "") return null;
  const capability = /^(\d{1,2}\.\d|\d{2,3})$/.test(text) ? Number(text.replace(".", "")) : 0;
  if (capability >= OLDEST_CAPABILITY) return capability;
  throw new CudaUnavailableError(`${PTX_VARIABLE} is "${text}"; it must be a compute capability from 7.0, such as 7.5`);
}

/**
 * A card as it is to be used: as it is, or as one of capability `ptx`, with the shared memory that such a card's blocks
 * have. Throws CudaUnavailableError where the card cannot do what such a card can.
 */
export function presented(info: DeviceInfo, ptx: number | null = ptxCapability()): DeviceInfo {
  if (ptx === null) return info;
  const { name, computeCapability, sharedBytes } = info;
  const setting = `${PTX_VARIABLE}=${capabilityText(ptx)}`;
  if (ptx > computeCapability) {
    const own = capabilityText(computeCapability);
    throw new CudaUnavailableError(`${setting} is more than the compute capability of ${name}, ${own}`);
  }
  const shared = ptx === computeCapability ? sharedBytes : sharedLimit(ptx);
  if (shared > sharedBytes) {
    const [wanted, own] = [shared, sharedBytes].map((bytes) => bytes / 1024);
    throw new CudaUnavailableError(
      `${setting} means blocks with ${wanted} KiB of shared memory; those of ${name} have ${own}`,
    );
  }
  return { ...info, name: `${name} (${setting})`, computeCapability: ptx, sharedBytes: shared };
}

/**
 * What kernels of a card are compiled to: its machine code where NVRTC has it, else PTX for the newest capability that NVRTC
 * has and the card is not older than. Throws CudaUnavailableError where the card is older than all, or `ptx` not among them.
 */
export function targetFor(
  { name, computeCapability }: Pick<DeviceInfo, "name" | "computeCapability">,
  { version, supported }: Compiler,
  ptx: number | null = ptxCapability(),
): Target {
  const nvrtc = `NVRTC ${version.join(".")}`;
  if (ptx !== null) {
    if (!supported || supported.includes(ptx)) return `compute_${ptx}`;
    throw new CudaUnavailableError(
      `${PTX_VARIABLE}=${capabilityText(ptx)}: ${nvrtc} compiles for ${supported.map(capabilityText).join(", ")} only`,
    );
  }
  if (!supported || supported.includes(computeCapability)) return `sm_${computeCapability}`;
  const older = supported.filter((capability) => capability <= computeCapability);
  if (older.length > 0) return `compute_${Math.max(...older)}`;
  throw new CudaUnavailableError(
    `${nvrtc} compiles for compute capability ${capabilityText(Math.min(...supported))} and up; ${name} has ` +
      `${capabilityText(computeCapability)}, which CUDA 12's libraries know: pip install nvidia-cuda-nvrtc-cu12 ` +
      "nvidia-cublas-cu12, and remove CUDA 13's (pip uninstall nvidia-cuda-nvrtc nvidia-cublas), which are taken first",
  );
}

/** How kernels get onto a card, in a few words. */
export function targetText(target: Target): string {
  const capability = capabilityText(capabilityOf(target));
  return isPtx(target)
    ? `kernels as PTX for ${capability}, compiled by the driver`
    : `kernels as machine code for ${capability}`;
}

const [INVALID_PTX, NO_JIT, NEWER_PTX] = [218, 221, 222];

/**
 * The error for PTX that the driver does not take; null where a status of loading a module says something else.
 * @param driver the driver's CUDA version, 12040 for 12.4
 */
export function refusedPtx(
  status: number,
  target: Target,
  [major, minor]: Compiler["version"],
  driver: number,
): CudaUnavailableError | null {
  if (!isPtx(target) || ![INVALID_PTX, NO_JIT, NEWER_PTX].includes(status)) return null;
  const cuda = [Math.floor(driver / 1000), Math.floor((driver % 1000) / 10)];
  const what = `NVRTC ${major}.${minor} makes PTX for ${capabilityText(capabilityOf(target))}`;
  if (status === NO_JIT) {
    return new CudaUnavailableError(
      `${what}, and the driver's compiler for it is missing (libnvidia-ptxjitcompiler.so.1): install all of the driver, in ` +
        "a container with NVIDIA_DRIVER_CAPABILITIES=compute,utility; or an NVRTC that knows this card, which needs none",
      status,
    );
  }
  const why = status === NEWER_PTX ? "is too old for it" : "does not take it (CUDA_ERROR_INVALID_PTX)";
  return new CudaUnavailableError(
    `${what}, and the driver (CUDA ${cuda.join(".")}) ${why}: install a newer driver, or an NVRTC not newer than the ` +
      `driver (pip install "${wheel(cuda[0]!)}==${cuda.join(".")}.*") and remove ${major}.${minor}`,
    status,
  );
}

/** The wheel of a CUDA version's NVRTC. */
const wheel = (major: number): string => (major >= 13 ? "nvidia-cuda-nvrtc" : `nvidia-cuda-nvrtc-cu${major}`);
