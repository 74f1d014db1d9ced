import { type DeviceInfo, Driver } from "./driver.ts";
import { CUBLASLT, DRIVER, type LibrarySpec, loadLibrary, NVRTC } from "./library.ts";

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
}

/** Look for the driver, its devices and the libraries; never throws. */
export function cudaStatus(): CudaStatus {
  const problems: string[] = [];
  const libraries = [DRIVER, NVRTC, CUBLASLT].map((spec) => find(spec, problems));
  let driverVersion: string | null = null;
  let devices: DeviceInfo[] = [];
  if (libraries[0]!.path !== null) {
    try {
      const driver = new Driver();
      driverVersion = `${Math.floor(driver.version / 1000)}.${(driver.version % 1000) / 10}`;
      devices = driver.devices();
      if (devices.length === 0) problems.push("the driver shows no GPU: check CUDA_VISIBLE_DEVICES");
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error));
    }
  }
  return { available: problems.length === 0, libraries, driverVersion, devices, problems };
}

function find(spec: LibrarySpec, problems: string[]): LibraryStatus {
  try {
    return { name: spec.name, path: loadLibrary(spec).path };
  } catch (error) {
    problems.push(error instanceof Error ? error.message : String(error));
    return { name: spec.name, path: null };
  }
}
