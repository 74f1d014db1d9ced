import { FormatError } from "../../formats/errors.ts";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../../formats/float16.ts";
import { DTYPE_BYTES, numel } from "../../graph/types.ts";
import type { DenseDType, DenseWeight } from "./source.ts";

/** Elements handled at a time: whole blocks of every quantised type, and few enough to stay in the processor's cache. */
const PIECE = 2 ** 18;

/** The bytes of a weight in another type, in pieces of at most 1 MiB; each is valid until the next is asked for. */
export function* densePieces(weight: DenseWeight, dtype: DenseDType): Generator<Uint8Array> {
  const count = numel(weight.shape);
  const size = DTYPE_BYTES[weight.dtype];
  const raw = new Uint8Array(Math.min(count, PIECE) * size);
  for (let at = 0; at < count; at += PIECE) {
    const piece = raw.subarray(0, Math.min(PIECE, count - at) * size);
    weight.read(piece, at * size);
    yield weight.dtype === dtype ? piece : convertDense(piece, weight.dtype, dtype, weight.name);
  }
}

/**
 * Numbers of one type as bytes of another, rounded to nearest even. `source` must start at a multiple of its element
 * size. Throws FormatError when a finite number is too large for f16.
 */
export function convertDense(source: Uint8Array, from: DenseDType, to: DenseDType, name: string): Uint8Array {
  const wide = widen(source, from);
  if (to === "f32") return new Uint8Array(wide.buffer, wide.byteOffset, wide.byteLength);
  const narrow = new Uint16Array(wide.length);
  if (to === "bf16") f32ToBf16(wide, narrow);
  else {
    f32ToF16(wide, narrow);
    const lost = narrow.findIndex((bits, i) => (bits & 0x7fff) === 0x7c00 && Number.isFinite(wide[i]));
    if (lost >= 0) {
      const expected = "at most 65504, all that float16 can hold: use bfloat16 or float32";
      throw new FormatError({ field: `tensor "${name}"`, found: `the value ${wide[lost]}`, expected });
    }
  }
  return new Uint8Array(narrow.buffer);
}

/** Numbers of any type as f32; f32 bytes are viewed, not copied. */
export function widen(source: Uint8Array, from: DenseDType): Float32Array {
  if (from === "f32") return new Float32Array(source.buffer, source.byteOffset, source.byteLength / 4);
  const half = new Uint16Array(source.buffer, source.byteOffset, source.byteLength / 2);
  const wide = new Float32Array(half.length);
  (from === "bf16" ? bf16ToF32 : f16ToF32)(half, wide);
  return wide;
}
