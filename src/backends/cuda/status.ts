import { cudnnNotes } from "./cudnn-attention.ts";
import { type DeviceInfo, Driver } from "./driver.ts";
import { CUBLASLT, CUDNN, DRIVER, type LibrarySpec, loadLibrary, NVRTC } from "./library.ts";
import { Nvrtc } from "./nvrtc.ts";
import { type Compiler, capabilityText, OLDEST_CAPABILITY, presented, targetFor, targetText } from "./target.ts";

/** What of CUDA this machine has. */
export interface CudaStatus {
  /** Whether `openCudaBackend` should work. */
  readonly available: boolean;
  readonly libraries: readonly LibraryStatus[];
  /** The driver's CUDA version, e.g. "13.0"; null when it does not start. */
  readonly driverVersion: string | null;
  readonly devices: readonly DeviceInfo[];
  /** What is wrong and how to put it right, one line each. */
  readonly problems: readonly string[];
}

export interface LibraryStatus {
  readonly name: string;
  /** Where it was loaded from; null: not found. */
  readonly path: string | null;
  /** What to do where it is not there. */
  readonly remedy: string;
  /** Without an optional one everything works, some of it slower. */
  readonly optional: boolean;
  /** How it is used (NVRTC), or why it was not used for something in this process (cuDNN), one line each. */
  readonly notes?: readonly string[];
}

/** Look for the driver, its devices and the libraries; never throws. */
export function cudaStatus(): CudaStatus {
  const problems: string[] = [];
  const needed = [DRIVER, NVRTC, CUBLASLT].map((spec) => find(spec, problems));
  const libraries = [...needed, { ...find(CUDNN, null), notes: cudnnNotes() }];
  const failed = (error: unknown): void => {
    problems.push(error instanceof Error ? error.message : String(error));
  };
  let driverVersion: string | null = null;
  let devices: DeviceInfo[] = [];
  if (libraries[0]!.path !== null) {
    try {
      const driver = new Driver();
      driverVersion = `${Math.floor(driver.version / 1000)}.${(driver.version % 1000) / 10}`;
      devices = driver.devices();
      if (devices.length === 0) problems.push("the driver shows no GPU: check CUDA_VISIBLE_DEVICES");
      else problems.push(...tooOld(devices[0]!));
      devices = devices.map((device) => presented(device));
    } catch (error) {
      failed(error);
    }
  }
  const [nvrtc, card] = [libraries[1]!, devices[0]];
  if (nvrtc.path !== null && card && problems.length === 0) {
    try {
      libraries[1] = { ...nvrtc, notes: [kernelNote(card, new Nvrtc())] };
    } catch (error) {
      failed(error);
    }
  }
  return { available: problems.length === 0, libraries, driverVersion, devices, problems };
}

/** How NVRTC makes the kernels of a card. Throws CudaUnavailableError where it does not. */
export function kernelNote(card: DeviceInfo, nvrtc: Compiler): string {
  return `version ${nvrtc.version.join(".")}, ${targetText(targetFor(card, nvrtc))}`;
}

function tooOld({ name, computeCapability }: DeviceInfo): string[] {
  if (computeCapability >= OLDEST_CAPABILITY) return [];
  return [
    `${name} has compute capability ${capabilityText(computeCapability)}; 7.0 (Volta) is the oldest supported: use the CPU`,
  ];
}

/** Where a library is; what is missing goes to `problems`, unless it may be. */
function find(spec: LibrarySpec, problems: string[] | null): LibraryStatus {
  const { name, remedy } = spec;
  const common = { name, remedy, optional: problems === null };
  try {
    return { ...common, path: loadLibrary(spec).path };
  } catch (error) {
    problems?.push(error instanceof Error ? error.message : String(error));
    return { ...common, path: null };
  }
}
