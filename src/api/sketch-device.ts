import type { Backend } from "../backends/backend.ts";
import { cudaStatus } from "../backends/cuda/index.ts";
import { SketchCudaBackend } from "../backends/cuda/sketch.ts";
import { storageOf } from "../models/load/dtypes.ts";
import { availableMemory } from "../util/available-memory.ts";
import { OptionError } from "../util/options.ts";
import type { DeviceOptions } from "./device.ts";
import { openSketchBackend } from "./sketch-backend.ts";

/** Share of a card that programs get; the rest is the driver's context, the library's and other programs'. */
const USABLE = 0.94;

/** A backend to plan with, and the bytes there are to plan for. */
export interface SketchPlace {
  readonly backend: Backend;
  readonly memory: number;
  readonly warnings: readonly string[];
}

/**
 * A sketch of what openDevice would open. With "cuda" a GPU need not be there: then `memory` says how large it is.
 * Throws OptionError when neither says, and as openDevice does for fp8 where there is no GPU for it.
 */
export async function openSketchDevice(
  { device = "auto", threads, dtype, fp8 = false }: Pick<DeviceOptions, "device" | "threads" | "dtype" | "fp8">,
  memory?: number,
  status: typeof cudaStatus = cudaStatus,
): Promise<SketchPlace> {
  const card = device === "cpu" || (device === "auto" && threads !== undefined) ? null : cardOf(status);
  if (device === "cuda" && !card && memory === undefined) {
    throw new OptionError('device: "cuda": there is no GPU to ask how much memory there is: give memory, e.g. 24GB');
  }
  if (device === "cuda" || card) {
    const computeDtype = dtype ? storageOf(dtype) : undefined;
    const backend = new SketchCudaBackend({ ...(computeDtype && { computeDtype }), fp8 }, card ?? undefined);
    const needed = fp8 ? "8.9" : "8.0";
    const absent = `planned for a GPU of compute capability ${needed} or newer, which is not in this machine`;
    const warnings = card ? [] : [absent];
    return { backend, memory: memory ?? Math.floor(USABLE * card!.bytes), warnings };
  }
  if (fp8) throw new OptionError('fp8 needs a GPU: leave it out, or plan with device: "cuda" and the memory of one');
  const backend = await openSketchBackend({ threads });
  const wanted = memory ?? availableMemory();
  if (backend.runtime.kind !== "wasm" || wanted <= WASM_BYTES) return { backend, memory: wanted, warnings: [] };
  return { backend, memory: WASM_BYTES, warnings: ["WebAssembly, which runs here, can use 4 GiB at most"] };
}

const WASM_BYTES = 4 * 2 ** 30;

function cardOf(status: typeof cudaStatus) {
  const { available, devices } = status();
  return available ? (devices[0] ?? null) : null;
}
