/** Storage types. `nf4` and `int8` are frozen quantised weights with their scales (see quant/); everything else is a plain array. */
export type DType = "f32" | "bf16" | "f16" | "i32" | "u32" | "u8" | "int8" | "nf4";

/** What activations are computed in. */
export type FloatDType = "f32" | "bf16" | "f16";

export const isFloat = (dtype: DType): dtype is FloatDType => dtype === "f32" || dtype === "bf16" || dtype === "f16";

export type Shape = readonly number[];

/** Bytes of one element; 4-bit weights have no whole-byte element and are sized by their tensor. */
export const DTYPE_BYTES: Readonly<Record<DType, number>> = {
  f32: 4,
  bf16: 2,
  f16: 2,
  i32: 4,
  u32: 4,
  u8: 1,
  int8: 1,
  nf4: 0.5,
};

/** Number of elements of a shape. */
export function numel(shape: Shape): number {
  let n = 1;
  for (const d of shape) n *= d;
  return n;
}

/** Bytes a dense array of this type and shape occupies. */
export function denseBytes(dtype: DType, shape: Shape): number {
  return Math.ceil(numel(shape) * DTYPE_BYTES[dtype]);
}

export interface TensorSpec {
  readonly dtype: DType;
  readonly shape: Shape;
}

/**
 * Memory that outlives programs: a weight, an adapter, an optimizer state, a cache. Owned by a backend; a graph refers
 * to it and never frees it.
 */
export interface Tensor extends TensorSpec {
  readonly id: number;
  readonly name: string;
  /** Bytes held, scales of quantised weights included. */
  readonly bytes: number;
}

/** A model or program was put together wrongly: shapes that do not fit, an unknown option, an impossible request. */
export class GraphError extends Error {
  override readonly name = "GraphError";
}

/** The plan cannot fit the memory it was given; `suggestions` says what would. */
export class MemoryPlanError extends Error {
  override readonly name = "MemoryPlanError";
  readonly needed: number;
  readonly budget: number;
  constructor(needed: number, budget: number, message: string) {
    super(message);
    this.needed = needed;
    this.budget = budget;
  }
}
