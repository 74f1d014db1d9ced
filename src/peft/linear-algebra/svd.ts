import type { Rng } from "../../util/rng.ts";
import { symmetricEigen } from "./eigen.ts";
import { beside, columns, type Matrix, multiply, transpose, zeros } from "./matrix.ts";
import { orthogonalFactor } from "./qr.ts";

/** W ≈ left·diag(values)·right: the largest singular values, left [rows, r], right [r, cols]. */
export interface Singular {
  readonly left: Matrix;
  readonly values: Float64Array;
  readonly right: Matrix;
}

/** A matrix too large to be handled whole: products with blocks of columns. */
export interface Products {
  readonly rows: number;
  readonly cols: number;
  /** W·x for x [cols, p]. */
  times(x: Matrix): Promise<Matrix>;
  /** Wᵀ·y for y [rows, p]. */
  transposedTimes(y: Matrix): Promise<Matrix>;
}

/** All r largest singular values and vectors, by the eigenvalues of the smaller of W·Wᵀ and Wᵀ·W. */
export function exactSingular(w: Matrix, r: number): Singular {
  const wide = w.rows <= w.cols;
  const short = wide ? w : transpose(w);
  const { values, vectors } = symmetricEigen(multiply(short, transpose(short)));
  const lengths = values.slice(0, r).map((value) => Math.sqrt(Math.max(0, value)));
  const near = transpose(columns(transpose(vectors), 0, r));
  const far = divideRows(multiply(near, short), lengths);
  return wide
    ? { left: transpose(near), values: lengths, right: far }
    : { left: transpose(far), values: lengths, right: near };
}

/** Columns beside the wanted ones that a search uses, and blocks that it goes on for. */
const EXTRA = 8;
const BLOCKS = 8;

/**
 * The r largest singular values and vectors by a randomised block Krylov search (Musco & Musco, "Randomized Block Krylov
 * Methods for Stronger and Faster Approximate Singular Value Decomposition", 2015): eight blocks, each made orthogonal to
 * all before it, and the best approximation within their span.
 */
export async function leadingSingular(w: Products, r: number, rng: Rng): Promise<Singular> {
  const width = Math.min(r + EXTRA, w.rows, w.cols);
  const count = Math.min(BLOCKS, Math.floor(Math.min(w.rows, w.cols) / width));
  const blocks: Matrix[] = [];
  const images: Matrix[] = [];
  let next = await w.times(randomMatrix(w.cols, width, rng));
  for (let i = 0; i < count; i++) {
    const block = orthogonalFactor(withoutSpan(next, blocks));
    blocks.push(block);
    images.push(await w.transposedTimes(block));
    if (i + 1 < count) next = await w.times(images[i]!);
  }
  return withinSpan(beside(...blocks), beside(...images), r);
}

/** torch.svd_lowrank: `iterations` rounds of subspace iteration with r columns (Halko, Martinsson & Tropp 2011). */
export async function iteratedSingular(w: Products, r: number, iterations: number, rng: Rng): Promise<Singular> {
  let span = orthogonalFactor(await w.times(randomMatrix(w.cols, r, rng)));
  for (let i = 0; i < iterations; i++) {
    span = orthogonalFactor(await w.times(orthogonalFactor(await w.transposedTimes(span))));
  }
  return withinSpan(span, await w.transposedTimes(span), r);
}

/** The best approximation of W with its columns in the span of `basis` (orthonormal); `image` is Wᵀ·basis. */
function withinSpan(basis: Matrix, image: Matrix, r: number): Singular {
  const { left, values, right } = exactSingular(transpose(image), r);
  return { left: multiply(basis, left), values, right };
}

/** x without its parts in the span of blocks of orthonormal columns; twice, for what rounding leaves. */
function withoutSpan(x: Matrix, blocks: readonly Matrix[]): Matrix {
  let rest = x;
  for (let pass = 0; pass < 2; pass++) {
    for (const block of blocks) {
      const inside = multiply(block, multiply(transpose(block), rest));
      rest = { ...rest, data: rest.data.map((value, i) => value - inside.data[i]!) };
    }
  }
  return rest;
}

function divideRows(m: Matrix, by: Float64Array): Matrix {
  const data = m.data.map((value, i) => {
    const length = by[Math.floor(i / m.cols)]!;
    return length > 0 ? value / length : 0;
  });
  return { ...m, data };
}

export function randomMatrix(rows: number, cols: number, rng: Rng): Matrix {
  const out = zeros(rows, cols);
  for (let i = 0; i < out.data.length; i++) out.data[i] = rng.normal();
  return out;
}
