/**
 * NF4 (Dettmers et al. 2023, QLoRA) as bitsandbytes computes it on a CPU: the code, quantisation of a flat array in
 * blocks, and double quantisation of the blocks' scales. The fast versions are kernels; these are the documented formulas
 * and the tests' reference.
 */
import { SIGNED_DYNAMIC_MAP } from "./dynamic-maps.ts";
import { torchMean } from "./torch-mean.ts";

const { fround } = Math;

/** The 16 code values, quantiles of a normal distribution scaled to [−1, 1]. Code 7 is 0. */
export const NF4_CODE: Readonly<Float32Array> = Float32Array.of(
  -1,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1,
);

/** f32 midpoints of neighbouring codes; the code of x is the number of midpoints below x (ties go down). */
export const NF4_THRESHOLDS: Readonly<Float32Array> = Float32Array.from({ length: 15 }, (_, i) =>
  fround((NF4_CODE[i]! + NF4_CODE[i + 1]!) / 2),
);

export const NF4_BLOCK_SIZES: readonly number[] = [32, 64, 128, 256, 512, 1024, 2048, 4096];
export const NF4_DEFAULT_BLOCK_SIZE = 64;

/** Elements of absmax that share one scale of the second quantisation. */
export const NESTED_BLOCK_SIZE = 256;

/** Packed codes, two a byte with the even element in the high nibble, and the largest magnitude of each block. */
export interface Nf4Data {
  /** [⌈n/2⌉] */
  data: Uint8Array;
  /** [⌈n/blockSize⌉] */
  absmax: Float32Array;
}

/** @throws {RangeError} unless bitsandbytes knows the block size. */
export function checkNf4BlockSize(blockSize: number): void {
  if (!NF4_BLOCK_SIZES.includes(blockSize)) {
    throw new RangeError(`NF4 block size must be one of ${NF4_BLOCK_SIZES.join(", ")}, found ${blockSize}`);
  }
}

/**
 * Quantises n values, flat and row-major. A block is multiplied by 1/absmax (at least 1e-38); a partial last block is
 * divided by its absmax, which is then stored as at least 1e-38: bitsandbytes' CPU code does so. An odd n leaves code 7
 * in the last low nibble.
 * @throws {RangeError} for a block size bitsandbytes does not know
 */
export function quantizeNf4Reference(values: Float32Array, blockSize = NF4_DEFAULT_BLOCK_SIZE): Nf4Data {
  checkNf4BlockSize(blockSize);
  const n = values.length;
  const absmax = new Float32Array(Math.ceil(n / blockSize));
  const codes = new Uint8Array(n + (n % 2)).fill(7);
  const tiny = fround(1e-38);
  for (let block = 0; block < absmax.length; block++) {
    const from = block * blockSize;
    const part = values.subarray(from, from + blockSize);
    const whole = part.length === blockSize;
    const largest = part.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
    const scale = Math.max(largest, tiny);
    absmax[block] = whole ? largest : scale;
    const inverse = fround(1 / scale);
    part.forEach((x, i) => {
      codes[from + i] = nf4Code(whole ? fround(x * inverse) : fround(x / scale));
    });
  }
  return {
    data: Uint8Array.from({ length: codes.length / 2 }, (_, i) => (codes[2 * i]! << 4) | codes[2 * i + 1]!),
    absmax,
  };
}

/** Code of a value scaled to [−1, 1]; NaN has code 15. */
function nf4Code(x: number): number {
  let code = 0;
  while (code < 15 && !(x <= NF4_THRESHOLDS[code]!)) code++;
  return code;
}

/** The n values of packed codes: code·absmax, in f32. */
export function dequantizeNf4Reference(
  { data, absmax }: Nf4Data,
  n: number,
  blockSize = NF4_DEFAULT_BLOCK_SIZE,
): Float32Array {
  return Float32Array.from({ length: n }, (_, i) => {
    const code = i % 2 ? data[i >> 1]! & 15 : data[i >> 1]! >> 4;
    return NF4_CODE[code]! * absmax[Math.floor(i / blockSize)]!;
  });
}

/** absmax quantised to 8 bits: absmax[b] ≈ map[codes[b]]·absmax2[⌊b/256⌋] + offset. */
export interface NestedAbsmax {
  codes: Uint8Array;
  /** Scales of the codes, one for every `blockSize`. */
  absmax: Float32Array;
  /** [256] */
  map: Float32Array;
  blockSize: number;
  /** Mean of the original absmax, f32. */
  offset: number;
}

/** Double quantisation: absmax − mean(absmax) in blocks of 256 with the signed dynamic map (or another of 256 entries). */
export function nestAbsmax(absmax: Float32Array, map: Readonly<Float32Array> = SIGNED_DYNAMIC_MAP): NestedAbsmax {
  const offset = torchMean(absmax);
  const centred = absmax.map((x) => x - offset);
  const { codes, scales } = quantizeBlockwise(centred, map, NESTED_BLOCK_SIZE);
  return { codes, absmax: scales, map: Float32Array.from(map), blockSize: NESTED_BLOCK_SIZE, offset };
}

/** The f32 absmax that a nested one stands for, with bitsandbytes' roundings: after the product and after the sum. */
export function expandAbsmax({ codes, absmax, map, blockSize, offset }: NestedAbsmax): Float32Array {
  return Float32Array.from(codes, (code, b) => fround(map[code]! * absmax[Math.floor(b / blockSize)]!) + offset);
}

/**
 * Blockwise 8-bit quantisation as bitsandbytes' CPU code does it: x/absmax is rounded to one of 65536 steps over [−1, 1],
 * and the step to the nearest entry of the map, ties down. A block of zeros has codes 0.
 */
export function quantizeBlockwise(
  values: Float32Array,
  map: Readonly<Float32Array>,
  blockSize: number,
): { codes: Uint8Array; scales: Float32Array } {
  const middles = Float32Array.from({ length: 255 }, (_, i) => fround(fround(map[i]! + map[i + 1]!) / 2));
  const scales = new Float32Array(Math.ceil(values.length / blockSize));
  const codes = new Uint8Array(values.length);
  for (let block = 0; block < scales.length; block++) {
    const part = values.subarray(block * blockSize, (block + 1) * blockSize);
    const largest = part.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
    scales[block] = largest;
    if (largest === 0) continue;
    const inverse = fround(1 / largest);
    part.forEach((x, i) => {
      codes[block * blockSize + i] = countBelow(middles, tableStep(fround(x * inverse)));
    });
  }
  return { codes, scales };
}

function tableStep(x: number): number {
  const unit = fround(fround(Math.min(1, Math.max(-1, x)) + 1) / 2);
  const step = Math.trunc(fround(unit * 65535 + 0.5)); // one rounding: bitsandbytes' build fuses the two operations
  return fround(fround((2 * step) / 65535) - 1);
}

/** How many entries of an ascending list are below x. */
function countBelow(list: Float32Array, x: number): number {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle]! < x) low = middle + 1;
    else high = middle;
  }
  return low;
}
