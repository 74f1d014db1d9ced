import { bf16ToF32, f32ToBf16 } from "../../formats/float16.ts";

const LARGEST = 448;

/** The nearest e4m3 number, ties to even, saturating: three bits of mantissa, steps of 2⁻⁹ below 2⁻⁶. */
export function e4m3(x: number): number {
  const magnitude = Math.min(Math.abs(x), LARGEST);
  if (magnitude === 0) return 0;
  let exponent = Math.floor(Math.log2(magnitude));
  // log2 of a number right below a power of two may round up to it.
  if (2 ** exponent > magnitude) exponent--;
  const step = 2 ** (Math.max(exponent, -6) - 3);
  const steps = magnitude / step;
  const below = Math.floor(steps);
  const rest = steps - below;
  const up = rest > 0.5 || (rest === 0.5 && below % 2 === 1);
  return Math.sign(x) * Math.min((below + (up ? 1 : 0)) * step, LARGEST);
}

export function roundToBf16(floats: Float32Array): Float32Array {
  const halves = new Uint16Array(floats.length);
  f32ToBf16(floats, halves);
  const rounded = new Float32Array(floats.length);
  bf16ToF32(halves, rounded);
  return rounded;
}

/** What row-wise e4m3 makes of a matrix with `k` columns: each row's largest magnitude becomes 448. */
export function throughE4m3(matrix: Float32Array, k: number): Float32Array {
  const out = new Float32Array(matrix.length);
  for (let at = 0; at < matrix.length; at += k) {
    let top = 0;
    for (let i = at; i < at + k; i++) top = Math.max(top, Math.abs(matrix[i]!));
    const scale = top > 0 ? Math.fround(top / LARGEST) : 1;
    const inverse = Math.fround(1 / scale);
    for (let i = at; i < at + k; i++) out[i] = e4m3(Math.fround(matrix[i]! * inverse)) * scale;
  }
  return out;
}

/** a[m, k]·b[n, k]ᵀ. */
export function multiplyTransposed(a: Float32Array, b: Float32Array, k: number): Float32Array {
  const [m, n] = [a.length / k, b.length / k];
  const out = new Float32Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) sum += a[i * k + l]! * b[j * k + l]!;
      out[i * n + j] = sum;
    }
  }
  return out;
}

/** Transpose of [rows, cols]. */
export function transposed(matrix: Float32Array, cols: number): Float32Array {
  const rows = matrix.length / cols;
  return Float32Array.from(matrix, (_, i) => matrix[(i % rows) * cols + Math.floor(i / rows)]!);
}
