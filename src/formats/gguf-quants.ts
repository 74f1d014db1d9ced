/**
 * Decoding of ggml's quantised blocks to f32, bit for bit as gguf-py and llama.cpp's reference functions do. Layouts are
 * those of ggml-common.h; below, `d` and `m` are a block's f16 scale and minimum, q its integers.
 *
 * The arithmetic is in doubles with one rounding to f32 on the store. That equals arithmetic in f32: every product here
 * (an f16 by a 6- or 8-bit scale by a quant of at most 8 bits) fits the 24 bits of an f32, so only the subtraction of
 * the minimum rounds.
 */
import { FormatError } from "./errors.ts";
import { bf16ToF32, f16ToF32, f16Values } from "./float16.ts";
import { GGML_TYPES, type GgmlType } from "./ggml-types.ts";

type Decoder = (source: Uint8Array, target: Float32Array) => void;

const DECODERS = {
  F32: (source: Uint8Array, target: Float32Array) =>
    new Uint8Array(target.buffer, target.byteOffset, target.byteLength).set(source),
  F16: (source: Uint8Array, target: Float32Array) => f16ToF32(asUint16(source), target),
  BF16: (source: Uint8Array, target: Float32Array) => bf16ToF32(asUint16(source), target),
  Q8_0: decodeQ8_0,
  Q4_0: decodeQ4_0,
  Q4_1: decodeQ4_1,
  Q5_0: decodeQ5_0,
  Q5_1: decodeQ5_1,
  Q4_K: decodeQ4_K,
  Q5_K: decodeQ5_K,
  Q6_K: decodeQ6_K,
} satisfies Partial<Record<GgmlType, Decoder>>;

export type DequantizableType = keyof typeof DECODERS;

export function isDequantizable(type: GgmlType): type is DequantizableType {
  return Object.hasOwn(DECODERS, type);
}

/**
 * Decodes whole blocks of `type` (sizes in `GGML_TYPES`) to f32, any number of them: a row, a tensor, a piece of either.
 * source [blocks · blockBytes] bytes, at any alignment; target [blocks · blockSize].
 * Throws `FormatError` for a type that is not supported (naming those that are), a partial block, or another length.
 */
export function dequantizeBlocks(type: GgmlType, source: Uint8Array, target: Float32Array): void {
  if (!isDequantizable(type))
    throw new FormatError({
      field: "tensor type",
      found: type,
      expected: `one of ${Object.keys(DECODERS).join(", ")}`,
    });
  const { blockSize, blockBytes } = GGML_TYPES[type];
  const field = `${type} data`;
  if (source.length % blockBytes !== 0)
    throw new FormatError({ field, found: `${source.length} bytes`, expected: `whole blocks of ${blockBytes} bytes` });
  const count = (source.length / blockBytes) * blockSize;
  if (target.length !== count)
    throw new FormatError({
      field,
      found: `a target of ${target.length} elements`,
      expected: `${count}, as in the source`,
    });
  DECODERS[type](source, target);
}

function asUint16(bytes: Uint8Array): Uint16Array {
  const aligned = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
  return new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.length / 2);
}

/**
 * `count` bytes at `at`: low nibbles q to target[y + i] = d0·q + m0, high ones to target[y + count + i] = d1·q + m1.
 * Four bytes a turn, because the loop's own cost is a third of the whole.
 */
function decodeNibbles(
  source: Uint8Array,
  at: number,
  count: 16 | 32,
  target: Float32Array,
  y: number,
  d0: number,
  m0: number,
  d1: number,
  m1: number,
): void {
  for (let i = at, low = y, high = y + count; i < at + count; i += 4, low += 4, high += 4) {
    const a = source[i]!;
    const b = source[i + 1]!;
    const c = source[i + 2]!;
    const d = source[i + 3]!;
    target[low] = d0 * (a & 15) + m0;
    target[low + 1] = d0 * (b & 15) + m0;
    target[low + 2] = d0 * (c & 15) + m0;
    target[low + 3] = d0 * (d & 15) + m0;
    target[high] = d1 * (a >> 4) + m1;
    target[high + 1] = d1 * (b >> 4) + m1;
    target[high + 2] = d1 * (c >> 4) + m1;
    target[high + 3] = d1 * (d >> 4) + m1;
  }
}

/** d, 32 × i8: y = d·q. */
function decodeQ8_0(source: Uint8Array, target: Float32Array): void {
  const half = f16Values();
  const signed = new Int8Array(source.buffer, source.byteOffset, source.length);
  for (let at = 0, y = 0; at < source.length; at += 34, y += 32) {
    const d = half[source[at]! | (source[at + 1]! << 8)]!;
    for (let i = 0; i < 32; i += 4) {
      target[y + i] = d * signed[at + 2 + i]!;
      target[y + i + 1] = d * signed[at + 3 + i]!;
      target[y + i + 2] = d * signed[at + 4 + i]!;
      target[y + i + 3] = d * signed[at + 5 + i]!;
    }
  }
}

/** d, 16 × two nibbles (elements i and i + 16): y = d·(q − 8). */
function decodeQ4_0(source: Uint8Array, target: Float32Array): void {
  const half = f16Values();
  for (let at = 0, y = 0; at < source.length; at += 18, y += 32) {
    const d = half[source[at]! | (source[at + 1]! << 8)]!;
    for (let i = 0; i < 16; i++) {
      const q = source[at + 2 + i]!;
      target[y + i] = d * ((q & 15) - 8);
      target[y + 16 + i] = d * ((q >> 4) - 8);
    }
  }
}

/** d, m, 16 × two nibbles: y = d·q + m. */
function decodeQ4_1(source: Uint8Array, target: Float32Array): void {
  const half = f16Values();
  for (let at = 0, y = 0; at < source.length; at += 20, y += 32) {
    const d = half[source[at]! | (source[at + 1]! << 8)]!;
    const m = half[source[at + 2]! | (source[at + 3]! << 8)]!;
    decodeNibbles(source, at + 4, 16, target, y, d, m, d, m);
  }
}

/** d, u32 whose bit i is bit 4 of element i, 16 × two nibbles: y = d·(q − 16). */
function decodeQ5_0(source: Uint8Array, target: Float32Array): void {
  const half = f16Values();
  for (let at = 0, y = 0; at < source.length; at += 22, y += 32) {
    const d = half[source[at]! | (source[at + 1]! << 8)]!;
    const lowBits = source[at + 2]! | (source[at + 3]! << 8);
    const highBits = source[at + 4]! | (source[at + 5]! << 8);
    for (let i = 0; i < 16; i++) {
      const q = source[at + 6 + i]!;
      target[y + i] = d * (((q & 15) | (((lowBits >> i) & 1) << 4)) - 16);
      target[y + 16 + i] = d * (((q >> 4) | (((highBits >> i) & 1) << 4)) - 16);
    }
  }
}

/** d, m, u32 of fifth bits, 16 × two nibbles: y = d·q + m. */
function decodeQ5_1(source: Uint8Array, target: Float32Array): void {
  const half = f16Values();
  for (let at = 0, y = 0; at < source.length; at += 24, y += 32) {
    const d = half[source[at]! | (source[at + 1]! << 8)]!;
    const m = half[source[at + 2]! | (source[at + 3]! << 8)]!;
    const lowBits = source[at + 4]! | (source[at + 5]! << 8);
    const highBits = source[at + 6]! | (source[at + 7]! << 8);
    for (let i = 0; i < 16; i++) {
      const q = source[at + 8 + i]!;
      target[y + i] = d * ((q & 15) | (((lowBits >> i) & 1) << 4)) + m;
      target[y + 16 + i] = d * ((q >> 4) | (((highBits >> i) & 1) << 4)) + m;
    }
  }
}

/**
 * The 6-bit scale (or with `offset` 4, minimum) of sub-block j of 8 in the 12 bytes at `at`: the first four whole in the
 * low bits of bytes 0–3 (minima 4–7); the others a nibble in bytes 8–11 and their top two bits above the first four's.
 */
function scaleK(source: Uint8Array, at: number, j: number, offset: 0 | 4): number {
  if (j < 4) return source[at + offset + j]! & 63;
  const nibbles = source[at + 4 + j]!;
  return (offset === 0 ? nibbles & 15 : nibbles >> 4) | ((source[at + offset + j - 4]! >> 6) << 4);
}

/** d, m, 12 bytes of scales and minima, 4 × 32 × two nibbles (sub-blocks 2g and 2g + 1): y = d·scale·q − m·minimum. */
function decodeQ4_K(source: Uint8Array, target: Float32Array): void {
  const half = f16Values();
  for (let at = 0, y = 0; at < source.length; at += 144) {
    const d = half[source[at]! | (source[at + 1]! << 8)]!;
    const m = half[source[at + 2]! | (source[at + 3]! << 8)]!;
    for (let g = 0; g < 4; g++, y += 64) {
      const d0 = d * scaleK(source, at + 4, 2 * g, 0);
      const m0 = m * scaleK(source, at + 4, 2 * g, 4);
      const d1 = d * scaleK(source, at + 4, 2 * g + 1, 0);
      const m1 = m * scaleK(source, at + 4, 2 * g + 1, 4);
      decodeNibbles(source, at + 16 + 32 * g, 32, target, y, d0, -m0, d1, -m1);
    }
  }
}

/** As Q4_K, with 32 bytes of fifth bits before the nibbles: bit j of byte i is that of element i of sub-block j. */
function decodeQ5_K(source: Uint8Array, target: Float32Array): void {
  const half = f16Values();
  for (let at = 0, y = 0; at < source.length; at += 176) {
    const d = half[source[at]! | (source[at + 1]! << 8)]!;
    const m = half[source[at + 2]! | (source[at + 3]! << 8)]!;
    for (let g = 0; g < 4; g++, y += 64) {
      const d0 = d * scaleK(source, at + 4, 2 * g, 0);
      const m0 = m * scaleK(source, at + 4, 2 * g, 4);
      const d1 = d * scaleK(source, at + 4, 2 * g + 1, 0);
      const m1 = m * scaleK(source, at + 4, 2 * g + 1, 4);
      const nibbles = at + 48 + 32 * g;
      for (let i = 0; i < 32; i++) {
        const q = source[nibbles + i]!;
        const fifths = source[at + 16 + i]! >> (2 * g);
        target[y + i] = d0 * ((q & 15) | ((fifths & 1) << 4)) - m0;
        target[y + 32 + i] = d1 * ((q >> 4) | ((fifths & 2) << 3)) - m1;
      }
    }
  }
}

/**
 * 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 × i8 scales (of 16 elements each), d: y = d·scale·(q − 32).
 * Each half of 128 elements has four runs of 32, from the low and high nibbles of 2 × 32 bytes and the pairs of 32.
 */
function decodeQ6_K(source: Uint8Array, target: Float32Array): void {
  const half = f16Values();
  for (let at = 0, y = 0; at < source.length; at += 210) {
    const d = half[source[at + 208]! | (source[at + 209]! << 8)]!;
    for (let h = 0; h < 2; h++, y += 128) {
      for (let s = 0; s < 2; s++) {
        const scales = at + 192 + 8 * h + s;
        const d0 = d * ((source[scales]! << 24) >> 24);
        const d1 = d * ((source[scales + 2]! << 24) >> 24);
        const d2 = d * ((source[scales + 4]! << 24) >> 24);
        const d3 = d * ((source[scales + 6]! << 24) >> 24);
        const nibbles = at + 64 * h;
        for (let i = 16 * s; i < 16 * s + 16; i++) {
          const low = source[nibbles + i]!;
          const high = source[nibbles + 32 + i]!;
          const pairs = source[at + 128 + 32 * h + i]!;
          target[y + i] = d0 * (((low & 15) | ((pairs & 3) << 4)) - 32);
          target[y + 32 + i] = d1 * (((high & 15) | ((pairs & 12) << 2)) - 32);
          target[y + 64 + i] = d2 * (((low >> 4) | (pairs & 48)) - 32);
          target[y + 96 + i] = d3 * (((high >> 4) | ((pairs & 192) >> 2)) - 32);
        }
      }
    }
  }
}
