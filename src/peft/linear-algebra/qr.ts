import { type Matrix, transpose, zeros } from "./matrix.ts";

/**
 * Q [m, n] of a = Q·R with R upper triangular, by Householder's reflections, for m ≥ n. Signs are LAPACK's (numpy, torch):
 * R's diagonal has the sign opposite to what it replaces, unless there is nothing below it.
 */
export function orthogonalFactor(a: Matrix): Matrix {
  const { rows: m, cols: n } = a;
  // Reflections work on columns: keep them contiguous.
  const work = transpose(a).data;
  const vectors: Float64Array[] = [];
  for (let k = 0; k < n; k++) {
    const v = work.slice(k * m + k, (k + 1) * m);
    // Nothing to make zero: LAPACK leaves the column, and its sign, alone.
    if (norm(v.subarray(1)) === 0) v.fill(0);
    const length = norm(v);
    v[0]! += v[0]! > 0 ? length : -length;
    const own = norm(v);
    if (own > 0) for (let i = 0; i < v.length; i++) v[i]! /= own;
    vectors.push(v);
    for (let j = k; j < n; j++) reflect(work.subarray(j * m + k, (j + 1) * m), v);
  }
  // Q = H_1 … H_n · [I; 0], its columns contiguous too.
  const q = zeros(n, m);
  for (let j = 0; j < n; j++) {
    const column = q.data.subarray(j * m, (j + 1) * m);
    column[j] = 1;
    for (let k = n - 1; k >= 0; k--) reflect(column.subarray(k), vectors[k]!);
  }
  return transpose(q);
}

/** x − 2·v·(v·x), v of length 1 (or all zero). */
function reflect(x: Float64Array, v: Float64Array): void {
  let dot = 0;
  for (let i = 0; i < v.length; i++) dot += x[i]! * v[i]!;
  for (let i = 0; i < v.length; i++) x[i]! -= 2 * dot * v[i]!;
}

function norm(x: Float64Array): number {
  let sum = 0;
  for (const value of x) sum += value * value;
  return Math.sqrt(sum);
}
