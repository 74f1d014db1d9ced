import { type Matrix, zeros } from "./matrix.ts";

export interface Eigen {
  /** Largest first. */
  readonly values: Float64Array;
  /** Row i is the vector of value i, of length 1. */
  readonly vectors: Matrix;
}

/** Rounds of QL iteration a value may take; two are usual. */
const MAX_ROUNDS = 60;

/**
 * Eigenvalues and -vectors of a symmetric matrix: Householder's reduction to a tridiagonal one, then implicit QL steps
 * with Wilkinson's shift (Golub & Van Loan, "Matrix Computations", 8.3). O(n³).
 */
export function symmetricEigen(matrix: Matrix): Eigen {
  const n = matrix.rows;
  const { diagonal, off, basis } = tridiagonal(matrix);
  for (let at = 0; at < n; at++) {
    for (let round = 0; ; round++) {
      const end = blockEnd(diagonal, off, at);
      if (end === at) break;
      if (round === MAX_ROUNDS) throw new Error(`eigenvalues of a ${n}×${n} matrix do not converge: is it finite?`);
      qlStep(diagonal, off, basis, at, end);
    }
  }
  const order = Array.from(diagonal, (_, i) => i).sort((a, b) => diagonal[b]! - diagonal[a]!);
  const vectors = zeros(n, n);
  order.forEach((from, to) => vectors.data.set(basis.data.subarray(from * n, (from + 1) * n), to * n));
  return { values: Float64Array.from(order, (i) => diagonal[i]!), vectors };
}

/** T = Q·M·Qᵀ with T tridiagonal; `basis` is Q, rows contiguous: a rotation of two of them touches nothing else. */
function tridiagonal(matrix: Matrix): { diagonal: Float64Array; off: Float64Array; basis: Matrix } {
  const n = matrix.rows;
  const a = Float64Array.from(matrix.data);
  const basis = zeros(n, n);
  for (let i = 0; i < n; i++) basis.data[i * n + i] = 1;
  const product = new Float64Array(n);
  for (let k = 0; k < n - 2; k++) {
    const v = new Float64Array(n);
    let square = 0;
    for (let i = k + 1; i < n; i++) {
      v[i] = a[i * n + k]!;
      square += v[i]! * v[i]!;
    }
    const length = Math.sqrt(square);
    v[k + 1]! += v[k + 1]! > 0 ? length : -length;
    const own = Math.sqrt(square - a[(k + 1) * n + k]! ** 2 + v[k + 1]! ** 2);
    if (own === 0) continue;
    for (let i = k + 1; i < n; i++) v[i]! /= own;
    // M − v·wᵀ − w·vᵀ with w = 2·(M·v − (vᵀ·M·v)·v).
    let along = 0;
    for (let i = k; i < n; i++) {
      let sum = 0;
      for (let j = k + 1; j < n; j++) sum += a[i * n + j]! * v[j]!;
      product[i] = sum;
      along += sum * v[i]!;
    }
    for (let i = k; i < n; i++) product[i] = 2 * (product[i]! - along * v[i]!);
    for (let i = k; i < n; i++) {
      const [vi, wi, row] = [v[i]!, product[i]!, i * n];
      for (let j = k; j < n; j++) a[row + j]! -= vi * product[j]! + wi * v[j]!;
    }
    reflectRows(basis, v, k + 1);
  }
  const diagonal = Float64Array.from({ length: n }, (_, i) => a[i * n + i]!);
  const off = Float64Array.from({ length: n }, (_, i) => (i + 1 < n ? a[(i + 1) * n + i]! : 0));
  return { diagonal, off, basis };
}

/** Q ← (I − 2·v·vᵀ)·Q, v being zero before `from`. */
function reflectRows({ cols: n, data }: Matrix, v: Float64Array, from: number): void {
  const dots = new Float64Array(n);
  for (let i = from; i < v.length; i++) {
    const [vi, row] = [v[i]!, i * n];
    for (let j = 0; j < n; j++) dots[j]! += vi * data[row + j]!;
  }
  for (let i = from; i < v.length; i++) {
    const [vi, row] = [2 * v[i]!, i * n];
    for (let j = 0; j < n; j++) data[row + j]! -= vi * dots[j]!;
  }
}

/** Last index of the block that starts at `at` and that no vanishing off-diagonal element divides. */
function blockEnd(diagonal: Float64Array, off: Float64Array, at: number): number {
  let end = at;
  while (end + 1 < diagonal.length) {
    const scale = Math.abs(diagonal[end]!) + Math.abs(diagonal[end + 1]!);
    if (Math.abs(off[end]!) <= Number.EPSILON * scale) break;
    end++;
  }
  return end;
}

/** One implicit QL step on the block at … end: rotations chase the bulge from its end to its start. */
function qlStep(d: Float64Array, e: Float64Array, basis: Matrix, at: number, end: number): void {
  const half = (d[at + 1]! - d[at]!) / (2 * e[at]!);
  const shift = d[at]! - e[at]! / (half + Math.sign(half || 1) * Math.hypot(half, 1));
  let [sine, cosine, moved] = [1, 1, 0];
  let bulge = d[end]! - shift;
  for (let i = end - 1; i >= at; i--) {
    const f = sine * e[i]!;
    const b = cosine * e[i]!;
    const length = Math.hypot(f, bulge);
    e[i + 1] = length;
    if (length === 0) {
      d[i + 1]! -= moved;
      e[end] = 0;
      return;
    }
    sine = f / length;
    cosine = bulge / length;
    const next = d[i + 1]! - moved;
    const turn = (d[i]! - next) * sine + 2 * cosine * b;
    moved = sine * turn;
    d[i + 1] = next + moved;
    bulge = cosine * turn - b;
    rotateRows(basis, i, cosine, sine);
  }
  d[at]! -= moved;
  e[at] = bulge;
  e[end] = 0;
}

function rotateRows({ cols: n, data }: Matrix, i: number, cosine: number, sine: number): void {
  const [upper, lower] = [i * n, (i + 1) * n];
  for (let j = 0; j < n; j++) {
    const f = data[lower + j]!;
    const g = data[upper + j]!;
    data[lower + j] = sine * g + cosine * f;
    data[upper + j] = cosine * g - sine * f;
  }
}
