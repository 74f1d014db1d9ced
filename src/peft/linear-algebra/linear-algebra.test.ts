import assert from "node:assert/strict";
import { test } from "node:test";
import { openCpuBackend } from "../../backends/cpu/backend.ts";
import { Rng } from "../../util/rng.ts";
import { ProductRunner } from "../products.ts";
import { symmetricEigen } from "./eigen.ts";
import { columns, type Matrix, multiply, transpose, zeros } from "./matrix.ts";
import { orthogonalFactor } from "./qr.ts";
import { exactSingular, iteratedSingular, leadingSingular, randomMatrix, type Singular } from "./svd.ts";

const largest = (values: Iterable<number>): number => [...values].reduce((most, v) => Math.max(most, Math.abs(v)), 0);
const difference = (a: Matrix, b: Matrix): number => largest(a.data.map((value, i) => value - b.data[i]!));
const identity = (n: number): Matrix => {
  const out = zeros(n, n);
  for (let i = 0; i < n; i++) out.data[i * n + i] = 1;
  return out;
};
const diagonal = (values: ArrayLike<number>): Matrix => {
  const out = identity(values.length);
  for (let i = 0; i < values.length; i++) out.data[i * (values.length + 1)] = values[i]!;
  return out;
};
const product = ({ left, values, right }: Singular): Matrix => multiply(multiply(left, diagonal(values)), right);
/** A matrix of known singular values. */
function withValues(rows: number, cols: number, values: readonly number[], seed: number): Matrix {
  const rng = new Rng(seed);
  const left = orthogonalFactor(randomMatrix(rows, values.length, rng));
  const right = orthogonalFactor(randomMatrix(cols, values.length, rng));
  return multiply(multiply(left, diagonal(values)), transpose(right));
}

test("eigenvalues and -vectors of symmetric matrices, degenerate ones too", () => {
  for (const n of [1, 2, 3, 17, 90]) {
    const a = randomMatrix(n, n + 2, new Rng(n));
    const m = multiply(a, transpose(a));
    const { values, vectors } = symmetricEigen(m);
    assert.ok(difference(multiply(vectors, transpose(vectors)), identity(n)) < 1e-13);
    const again = multiply(multiply(transpose(vectors), diagonal(values)), vectors);
    assert.ok(difference(again, m) < 1e-13 * values[0]!);
    assert.deepEqual(
      [...values],
      [...values].sort((x, y) => y - x),
    );
  }
  assert.deepEqual([...symmetricEigen(identity(5)).values], [1, 1, 1, 1, 1]);
  assert.deepEqual([...symmetricEigen(zeros(4, 4)).values], [0, 0, 0, 0]);
  assert.deepEqual([...symmetricEigen(diagonal([1, -3, 2])).values], [2, 1, -3]);
  assert.throws(() => symmetricEigen(diagonal([1, Number.NaN, 2])), /do not converge: is it finite\?/);
});

test("Q is orthonormal and spans the columns; R has LAPACK's signs", () => {
  const a = randomMatrix(9, 4, new Rng(3));
  const q = orthogonalFactor(a);
  assert.ok(difference(multiply(transpose(q), q), identity(4)) < 1e-14);
  const r = multiply(transpose(q), a);
  assert.ok(difference(multiply(q, r), a) < 1e-14);
  for (let i = 0; i < 4; i++) for (let j = 0; j < i; j++) assert.ok(Math.abs(r.data[i * 4 + j]!) < 1e-14);
  // numpy.linalg.qr([[3, 1], [4, 2]]): R = [[-5, -2.2], [0, 0.4]].
  const small = multiply(transpose(orthogonalFactor({ rows: 2, cols: 2, data: Float64Array.of(3, 1, 4, 2) })), {
    rows: 2,
    cols: 2,
    data: Float64Array.of(3, 1, 4, 2),
  });
  assert.ok(difference(small, { rows: 2, cols: 2, data: Float64Array.of(-5, -2.2, 0, 0.4) }) < 1e-14);
  assert.ok([...orthogonalFactor(zeros(3, 2)).data].every(Number.isFinite));
});

test("singular values and vectors of tall, wide and singular matrices", () => {
  for (const [rows, cols] of [
    [12, 5],
    [5, 12],
    [8, 8],
  ] as const) {
    const w = withValues(rows, cols, [4, 3, 2, 1, 0.5], rows);
    const found = exactSingular(w, 5);
    assert.ok(largest([4, 3, 2, 1, 0.5].map((value, i) => value - found.values[i]!)) < 1e-12);
    assert.ok(difference(product(found), w) < 1e-12);
    const two = exactSingular(w, 2);
    const best = withValues(rows, cols, [4, 3, 2, 1, 0.5], rows);
    assert.ok(largest(multiply(transpose(two.left), best).data) <= 4 + 1e-9);
    assert.equal(two.left.cols, 2);
  }
  const nothing = exactSingular(zeros(4, 3), 2);
  assert.ok([...nothing.left.data, ...nothing.right.data].every(Number.isFinite));
  assert.deepEqual([...nothing.values], [0, 0]);
});

test("the search finds the leading singular vectors of larger matrices, products in f32", async () => {
  using backend = await openCpuBackend({ threads: 2 });
  const runner = new ProductRunner(backend);
  // As weights have them: values that fall slowly.
  const values = Array.from({ length: 150 }, (_, i) => 10 / (1 + i / 10));
  for (const [rows, cols] of [
    [260, 210],
    [210, 260],
  ] as const) {
    const w = withValues(rows, cols, values, 5);
    const exact = exactSingular(w, 8);
    const products = runner.load(rows, cols, Float32Array.from(w.data));
    const found = await leadingSingular(products, 8, new Rng(1));
    assert.ok(largest(found.values.map((value, i) => value / exact.values[i]! - 1)) < 1e-5);
    assert.ok(difference(product(found), product(exact)) < 1e-4 * 10);
    assert.ok(difference(multiply(transpose(found.left), found.left), identity(8)) < 1e-5);
    // Few rounds come near, more come nearer.
    const errors: number[] = [];
    for (const rounds of [1, 16]) {
      const rough = await iteratedSingular(products, 8, rounds, new Rng(1));
      errors.push(largest(rough.values.map((value, i) => value / exact.values[i]! - 1)));
    }
    assert.ok(errors[0]! < 0.3 && errors[1]! < errors[0]! / 2, `${errors}`);
  }
  const left = columns(identity(4), 1, 3);
  assert.deepEqual([...left.data], [0, 0, 1, 0, 0, 1, 0, 0]);
  runner.dispose();
  assert.equal(backend.memory().tensors.constant, 0);
});
