import type { FloatDType } from "../../graph/types.ts";
import { CudaBackend } from "./backend.ts";
import { cudaStatus } from "./status.ts";

const status = cudaStatus();

/** Why tests that need a GPU are skipped; false: they are not. UNSLOTH_TEST_GPU=1 makes a missing GPU a failure. */
export const skip: string | false =
  status.available || process.env.UNSLOTH_TEST_GPU === "1" ? false : `no GPU: ${status.problems[0]}`;

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
