/**
 * Bits of an element of every dtype the safetensors library knows. The order is the library's: a writer puts tensors of
 * later dtypes first, so that wider elements stay aligned.
 */
export const SAFETENSORS_DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

export type SafetensorsDtype = keyof typeof SAFETENSORS_DTYPE_BITS;

export function isSafetensorsDtype(value: unknown): value is SafetensorsDtype {
  return typeof value === "string" && Object.hasOwn(SAFETENSORS_DTYPE_BITS, value);
}

/**
 * Bytes of a tensor; `undefined` if the shape is not one of non-negative integers, the count overflows 2⁵³, or the
 * elements (of a dtype under 8 bits) do not fill whole bytes.
 */
export function safetensorsByteLength(dtype: SafetensorsDtype, shape: readonly unknown[]): number | undefined {
  let bits: number = SAFETENSORS_DTYPE_BITS[dtype];
  let isEmpty = false;
  for (const size of shape) {
    if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) return undefined;
    if (size === 0) isEmpty = true;
    // A zero elsewhere in the shape does not excuse an overflow: the library multiplies left to right.
    else bits *= size;
    if (bits > Number.MAX_SAFE_INTEGER) return undefined;
  }
  if (isEmpty) return 0;
  return bits % 8 === 0 ? bits / 8 : undefined;
}
