/**
 * Weights in 8 bits: absmax quantisation in blocks of 64 elements of the flat array (Dettmers et al. 2022, "8-bit optimizers
 * via block-wise quantization", with a linear code). A block's scale is its largest magnitude over 127, and a value is
 * code·scale: 8.5 bits a weight. Unlike LLM.int8 activations stay as they are, so there are no outliers to keep apart.
 */
import { bf16ToF32, f16ToF32 } from "../formats/float16.ts";

const { fround } = Math;

/** Elements that share a scale. */
export const INT8_BLOCK_SIZE = 64;

/** Adding and subtracting it rounds an f32 below 2^22 to an integer, ties to even. */
const ROUNDER = 1.5 * 2 ** 23;

/** Codes [n] in −127…127 and scales [⌈n/64⌉] of n values; a block without a number other than 0 has scale 0. */
export function quantizeInt8(values: Float32Array): { codes: Int8Array; scales: Float32Array } {
  const codes = new Int8Array(values.length);
  const scales = new Float32Array(Math.ceil(values.length / INT8_BLOCK_SIZE));
  for (let block = 0; block < scales.length; block++) {
    const from = block * INT8_BLOCK_SIZE;
    const to = Math.min(values.length, from + INT8_BLOCK_SIZE);
    let largest = 0;
    for (let i = from; i < to; i++) largest = Math.max(largest, Math.abs(values[i]!));
    scales[block] = largest / 127;
    const inverse = largest > 0 ? fround(127 / largest) : 0;
    for (let i = from; i < to; i++) {
      codes[i] = Math.max(-127, Math.min(127, fround(fround(fround(values[i]! * inverse) + ROUNDER) - ROUNDER)));
    }
  }
  return { codes, scales };
}

/** The n values of codes: code·scale, in f32. */
export function dequantizeInt8(codes: Int8Array, scales: Float32Array): Float32Array {
  return Float32Array.from(codes, (code, i) => code * scales[Math.floor(i / INT8_BLOCK_SIZE)]!);
}

/** Elements quantised at a time: a multiple of the block size. */
const PIECE = 2 ** 20;

/** Quantise n elements of a dense source a piece at a time: `write` gets codes and scales with their byte offsets. */
export function quantizeInt8Pieces(
  n: number,
  dtype: "f32" | "bf16" | "f16",
  read: (target: Uint8Array, offset: number) => void,
  write: (part: "data" | "absmax", bytes: Uint8Array, offset: number) => void,
): void {
  const size = dtype === "f32" ? 4 : 2;
  const raw = new Uint8Array(Math.min(n, PIECE) * size);
  for (let at = 0; at < n; at += PIECE) {
    const count = Math.min(PIECE, n - at);
    read(raw.subarray(0, count * size), at * size);
    const { codes, scales } = quantizeInt8(widen(raw, dtype, count));
    write("data", new Uint8Array(codes.buffer), at);
    write("absmax", new Uint8Array(scales.buffer), (4 * at) / INT8_BLOCK_SIZE);
  }
}

function widen(raw: Uint8Array, dtype: "f32" | "bf16" | "f16", count: number): Float32Array {
  if (dtype === "f32") return new Float32Array(raw.buffer, 0, count);
  const wide = new Float32Array(count);
  (dtype === "bf16" ? bf16ToF32 : f16ToF32)(new Uint16Array(raw.buffer, 0, count), wide);
  return wide;
}
