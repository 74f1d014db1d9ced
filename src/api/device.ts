import type { Backend } from "../backends/backend.ts";
import { openCpuBackend } from "../backends/cpu/backend.ts";
import { CudaUnavailableError, cudaStatus, openCudaBackend } from "../backends/cuda/index.ts";
import type { FloatDType } from "../graph/types.ts";
import { type DTypeName, dtypeName, storageOf } from "../models/load/dtypes.ts";
import { OptionError } from "../util/options.ts";

/** Where to compute: "auto" is an NVIDIA GPU where one can be used, else the CPU. */
export const DEVICES = ["auto", "cuda", "cpu"] as const;
export type DeviceName = (typeof DEVICES)[number];

export interface DeviceOptions {
  /** Default "auto". */
  readonly device?: DeviceName | undefined;
  /** Threads of the CPU; all when left out. With "auto" they ask for the CPU. */
  readonly threads?: number | undefined;
  /** Type of activations on a GPU; null: bfloat16 from compute capability 8.0, float16 below. The CPU computes in float32. */
  readonly dtype?: DTypeName | null | undefined;
  /** Frozen layers but the first and the last multiply in 8 bits (e4m3); needs compute capability 8.9. Default false. */
  readonly fp8?: boolean | undefined;
  /** Told which device "auto" came to, and why; when left out, a line on stderr says it once a process. */
  readonly onDevice?: ((line: string) => void) | undefined;
}

/** What deciding looks at; tests give their own. */
export interface DeviceSources {
  readonly status: typeof cudaStatus;
  readonly openCuda: typeof openCudaBackend;
}

const SOURCES: DeviceSources = { status: cudaStatus, openCuda: openCudaBackend };

/**
 * Open the backend that a device option asks for. "auto" never fails for want of a GPU; "cuda" throws
 * CudaUnavailableError saying what is missing and how to get it, and OptionError for what the card cannot do.
 */
export async function openDevice(options: DeviceOptions = {}, sources: DeviceSources = SOURCES): Promise<Backend> {
  const { device = "auto", threads, dtype = null, fp8 = false, onDevice = sayOnce } = options;
  if (device === "cpu" || (device === "auto" && threads !== undefined)) {
    if (fp8) throw new OptionError("fp8 needs a GPU: leave it out on the CPU");
    return openCpuBackend({ threads });
  }
  const computeDtype: FloatDType | undefined = dtype === null ? undefined : storageOf(dtype);
  const cuda = () => sources.openCuda({ ...(computeDtype && { computeDtype }), fp8 });
  if (device === "cuda") {
    if (threads !== undefined) throw new OptionError('threads is for the CPU; leave it out with device: "cuda"');
    try {
      return await cuda();
    } catch (error) {
      if (error instanceof CudaUnavailableError) error.message = `device: "cuda": ${error.message}`;
      throw error;
    }
  }
  const why = await unusable(sources, cuda);
  if (typeof why !== "string") {
    onDevice(`device: ${why.description}`);
    return why;
  }
  if (fp8) throw new OptionError(`fp8 needs a GPU, and there is none to use: ${why}`);
  onDevice(`device: the CPU, as ${why}`);
  return openCpuBackend({ threads });
}

/** The GPU's backend, or in a few words why there is none. */
async function unusable({ status }: DeviceSources, open: () => Promise<Backend>): Promise<Backend | string> {
  const { available, problems, libraries } = status();
  // Most machines have no GPU: where a driver was looked for is of no interest there.
  if (libraries[0]?.path === null) return "there is no NVIDIA driver";
  if (!available) return `the GPU cannot be used: ${problems[0]}`;
  try {
    return await open();
  } catch (error) {
    if (error instanceof CudaUnavailableError) return `the GPU cannot be used: ${error.message}`;
    throw error;
  }
}

const said = new Set<string>();
function sayOnce(line: string): void {
  if (said.has(line)) return;
  said.add(line);
  process.stderr.write(`${line}\n`);
}

/** Whether there is a GPU that trains in bfloat16 (compute capability 8.0 and up); a CPU computes in float32. */
export function isBfloat16Supported(status: typeof cudaStatus = cudaStatus): boolean {
  const { available, devices } = status();
  return available && devices.some(({ computeCapability }) => computeCapability >= 80);
}

/**
 * How matrices that are not quantised are kept, for the dtype that was asked for: on a GPU as it multiplies them where
 * nothing was; null: as they are. What full fine-tuning trains is float32 on any device.
 */
export function storedAs(
  { name, computeDtype = "f32" }: Pick<Backend, "name" | "computeDtype">,
  dtype: DTypeName | null,
  { fullFinetuning = false }: { readonly fullFinetuning?: boolean },
): DTypeName | null {
  if (name === "cuda" && fullFinetuning) return null;
  return dtype ?? (computeDtype === "f32" ? null : dtypeName(computeDtype));
}
