import { FormatError } from "./errors.ts";

/**
 * IEEE 754 binary16 (f16) and bfloat16 to and from f32, bit-exact: round to nearest, ties to even; subnormals,
 * infinities and signed zeros kept; overflow to infinity; a NaN stays a NaN with its sign (made quiet when narrowing, as
 * the F16C instructions do). Everything moves as integers, because a signalling NaN read as a number changes its bits.
 */

const F32_INFINITY = 0x7f800000;

let f16Table: Uint32Array | undefined;

/** The f32 bits of every f16: [65536], built once (256 KiB; about 1 ms). */
function f16ToF32Table(): Uint32Array {
  if (f16Table) return f16Table;
  const table = new Uint32Array(65536);
  for (let mantissa = 1; mantissa < 0x400; mantissa++) {
    // A subnormal is mantissa · 2⁻²⁴: shift its leading one up to the hidden bit.
    const shift = Math.clz32(mantissa) - 21;
    table[mantissa] = ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13);
  }
  for (let half = 0x400; half < 0x7c00; half++) table[half] = (half << 13) + (112 << 23);
  for (let half = 0x7c00; half < 0x8000; half++) table[half] = F32_INFINITY | ((half & 0x3ff) << 13);
  for (let half = 0; half < 0x8000; half++) table[half | 0x8000] = table[half]! | 0x80000000;
  f16Table = table;
  return table;
}

/** The f32 of each f16 bit pattern: [65536]. For decoders that look scales up; do not write to it. */
export function f16Values(): Float32Array {
  return new Float32Array(f16ToF32Table().buffer);
}

/** f16 bits [n] to f32 [n]. Exact. */
export function f16ToF32(source: Uint16Array, target: Float32Array): void {
  sameLength(source.length, target.length);
  const table = f16ToF32Table();
  const bits = new Uint32Array(target.buffer, target.byteOffset, target.length);
  // Four a turn, here and below: the loop's own cost is half of the whole.
  let i = 0;
  for (; i + 3 < source.length; i += 4) {
    bits[i] = table[source[i]!]!;
    bits[i + 1] = table[source[i + 1]!]!;
    bits[i + 2] = table[source[i + 2]!]!;
    bits[i + 3] = table[source[i + 3]!]!;
  }
  for (; i < source.length; i++) bits[i] = table[source[i]!]!;
}

/** bf16 bits [n] to f32 [n]. Exact. */
export function bf16ToF32(source: Uint16Array, target: Float32Array): void {
  sameLength(source.length, target.length);
  const bits = new Uint32Array(target.buffer, target.byteOffset, target.length);
  let i = 0;
  for (; i + 3 < source.length; i += 4) {
    bits[i] = source[i]! << 16;
    bits[i + 1] = source[i + 1]! << 16;
    bits[i + 2] = source[i + 2]! << 16;
    bits[i + 3] = source[i + 3]! << 16;
  }
  for (; i < source.length; i++) bits[i] = source[i]! << 16;
}

/** f32 [n] to f16 bits [n], rounded to nearest even. */
export function f32ToF16(source: Float32Array, target: Uint16Array): void {
  sameLength(source.length, target.length);
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length);
  for (let i = 0; i < bits.length; i++) target[i] = narrowToF16(bits[i]!);
}

/** f32 [n] to bf16 bits [n], rounded to nearest even. */
export function f32ToBf16(source: Float32Array, target: Uint16Array): void {
  sameLength(source.length, target.length);
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length);
  for (let i = 0; i < bits.length; i++) target[i] = narrowToBf16(bits[i]!);
}

function narrowToF16(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x38800000) {
    // 2⁻¹⁴ and up. Rounding may carry into the exponent, and from 65520 on into infinity: both are right.
    if (magnitude < 0x47800000) return sign | ((magnitude - (112 << 23) + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
    return magnitude > F32_INFINITY ? sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff) : sign | 0x7c00;
  }
  // Subnormal: mantissa (24 bits with the hidden one) · 2^(exponent − 150), in units of 2⁻²⁴.
  const shift = 126 - (magnitude >>> 23);
  if (shift > 24) return sign;
  const mantissa = (magnitude & 0x7fffff) | 0x800000;
  const half = 1 << (shift - 1);
  return sign | ((mantissa + half - 1 + ((mantissa >>> shift) & 1)) >>> shift);
}

function narrowToBf16(bits: number): number {
  if ((bits & 0x7fffffff) > F32_INFINITY) return (bits >>> 16) | 0x40;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

function sameLength(source: number, target: number): void {
  if (source !== target)
    throw new FormatError({ field: "target", found: `${target} elements`, expected: `the source's ${source}` });
}
