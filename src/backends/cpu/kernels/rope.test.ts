import assert from "node:assert/strict";
import { test } from "node:test";
import { everywhere } from "../../../testing/kernel-cases.ts";
import { randomFloats, relativeError, runKernel } from "../../../testing/kernels.ts";

/** Rotation of [T, ld] in float64; elements past heads·headDim in a row stay. */
function rotate(x: Float32Array, heads: number, d: number, ld: number, table: Float32Array, positions: Int32Array) {
  const y = Float64Array.from(x);
  const h = d / 2;
  positions.forEach((position, t) => {
    for (let i = 0; i < heads; i++) {
      for (let j = 0; j < h; j++) {
        const at = t * ld + i * d + j;
        const [cos, sin] = [table[position * d + j]!, table[position * d + h + j]!];
        y[at] = x[at]! * cos - x[at + h]! * sin;
        y[at + h] = x[at + h]! * cos + x[at]! * sin;
      }
    }
  });
  return y;
}

/** cos and sin of position · 10000^(−2j/d). */
function angles(maxPos: number, d: number): Float32Array {
  return Float32Array.from({ length: maxPos * d }, (_, i) => {
    const j = i % d;
    const angle = Math.floor(i / d) * 10000 ** ((-2 * (j % (d / 2))) / d);
    return j < d / 2 ? Math.cos(angle) : Math.sin(angle);
  });
}

const CASES = [
  { T: 1, heads: 1, d: 2, pad: 0 },
  { T: 5, heads: 3, d: 16, pad: 3 },
  { T: 33, heads: 2, d: 24, pad: 0 },
  { T: 7, heads: 4, d: 40, pad: 8 },
  { T: 300, heads: 9, d: 64, pad: 64 },
  { T: 3, heads: 1, d: 250, pad: 1 },
];

test("rope rotates in place and elsewhere, and inverse undoes it", () => {
  for (const { T, heads, d, pad } of CASES) {
    const ld = heads * d + pad;
    const maxPos = 50;
    const x = randomFloats(T * ld, 1);
    const table = angles(maxPos, d);
    const positions = Int32Array.from({ length: T }, (_, t) => (t * 7) % maxPos);
    const want = rotate(x, heads, d, ld, table, positions);
    everywhere(
      (memory, rt) => {
        const [tableAt, positionsAt] = [memory.put(table), memory.put(positions)];
        const run = (from: number, inverse: number, to: number) => {
          runKernel(rt, "rope", [T, heads, d, ld, from, tableAt, maxPos, positionsAt, inverse, to]);
          return memory.floats(to, T * ld);
        };
        const at = memory.put(x);
        const elsewhere = memory.put(x.map((v, i) => (i % ld < heads * d ? Number.NaN : v)));
        const separate = run(at, 0, elsewhere);
        const inPlace = run(at, 0, at);
        return [inPlace, separate, run(at, 1, at)] as const;
      },
      ([inPlace, separate, back], isa) => {
        const label = `${isa} T ${T} heads ${heads} d ${d}`;
        assert.ok(relativeError(inPlace, want) <= 1e-6, label);
        assert.deepEqual(separate, inPlace, label);
        assert.ok(relativeError(back, x) <= 1e-6, `${label}: inverse`);
      },
    );
  }
});

test("rope gives zeros for positions outside the table", () => {
  const x = randomFloats(3 * 8, 1);
  const positions = Int32Array.of(-1, 2, 1_000_000);
  everywhere(
    (memory, rt) => {
      const at = memory.put(x);
      const head = [3, 2, 4, 8, at, memory.put(angles(2, 4)), 2];
      runKernel(rt, "rope", [...head, memory.put(positions), 0, at]);
      return [memory.floats(at, 24)] as const;
    },
    ([y], isa) => assert.deepEqual(y, new Float32Array(24), isa),
  );
});
