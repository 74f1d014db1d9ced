import type { DType } from "../../graph/types.ts";
import { ConfigError } from "../config.ts";
import type { DenseDType } from "./source.ts";

/** Hugging Face's names of the types weights are kept in. */
export type DTypeName = "float32" | "bfloat16" | "float16";

const STORAGE: Readonly<Record<DTypeName, DenseDType>> = { float32: "f32", bfloat16: "bf16", float16: "f16" };
const NAMES: Readonly<Record<DenseDType, DTypeName>> = { f32: "float32", bf16: "bfloat16", f16: "float16" };

/** Storage type of a dtype option. Throws ConfigError for any other name. */
export function storageOf(dtype: DTypeName): DenseDType {
  const storage = Object.hasOwn(STORAGE, dtype) ? STORAGE[dtype] : undefined;
  if (!storage) throw new ConfigError(`dtype: found ${JSON.stringify(dtype)}; expected float32, bfloat16 or float16`);
  return storage;
}

/** Hugging Face's name of a storage type. */
export function dtypeName(dtype: DenseDType): DTypeName {
  return NAMES[dtype];
}

export function isDense(dtype: DType): dtype is DenseDType {
  return Object.hasOwn(NAMES, dtype);
}
