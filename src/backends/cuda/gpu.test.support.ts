import type { FloatDType } from "../../graph/types.ts";
import { CudaBackend } from "./backend.ts";
import { cudaStatus } from "./status.ts";
import { capabilityText } from "./target.ts";

const status = cudaStatus();

/** Why tests that need a GPU are skipped; false: they are not. UNSLOTH_TEST_GPU=1 makes a missing GPU a failure. */
export const skip: string | false =
  status.available || process.env.UNSLOTH_TEST_GPU === "1" ? false : `no GPU: ${status.problems[0]}`;

const capability = status.devices[0]?.computeCapability;
const older = capability !== undefined && capability < 80;

/** The same for tests whose activations or products are bf16: cards before 8.0, and those used as one, skip them. */
export const skipBf16: string | false =
  skip || (older ? `compute capability ${capabilityText(capability)} has no bf16` : false);
export const skipOf = (dtype: FloatDType): string | false => (dtype === "bf16" ? skipBf16 : skip);

/** The 16 bits that the card multiplies: f16 where it has no bf16. For tests that are to pass in either. */
export const half: "bf16" | "f16" = older ? "f16" : "bf16";

const open = new Map<FloatDType, CudaBackend>();

/** The backend of a type of activations, one for all tests of a file. */
export function gpu(computeDtype: FloatDType): CudaBackend {
  let backend = open.get(computeDtype);
  if (!backend) {
    backend = new CudaBackend({ computeDtype });
    open.set(computeDtype, backend);
  }
  return backend;
}
