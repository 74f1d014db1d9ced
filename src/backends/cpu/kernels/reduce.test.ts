import assert from "node:assert/strict";
import { test } from "node:test";
import { errorOf, everywhere } from "../../../testing/kernel-cases.ts";
import { randomFloats, runKernel } from "../../../testing/kernels.ts";

const SHAPES = [
  [1, 1],
  [3, 5],
  [7, 64],
  [2, 9001],
  [300, 33],
  [9001, 2],
  [1, 70_000],
] as const;

/** kind (0 sum, 1 mean, 2 max) over each row or everything, in float64. */
function reduced(x: Float32Array, kind: number, cols: number): Float64Array {
  return Float64Array.from({ length: x.length / cols }, (_, r) => {
    const row = x.subarray(r * cols, (r + 1) * cols);
    if (kind === 2) return row.reduce((max, v) => Math.max(max, v), Number.NEGATIVE_INFINITY);
    return row.reduce((sum, v) => sum + v, 0) / (kind === 1 ? cols : 1);
  });
}

test("reduce: sums, means and maxima of rows and of everything, plus acc", () => {
  for (const [rows, cols] of SHAPES) {
    for (const kind of [0, 1, 2]) {
      for (const axis of [1, 2]) {
        const x = randomFloats(rows * cols, 3).map((v) => v - (kind === 2 ? 3 : 0)); // a negative maximum
        const n = axis === 1 ? rows : 1;
        const acc = randomFloats(n, 4);
        const want = reduced(x, kind, axis === 1 ? cols : rows * cols);
        const added = want.map((v, i) => v + acc[i]!);
        everywhere(
          (memory, rt) => {
            const run = (from: number, y: number) => {
              runKernel(rt, "reduce", [kind, rows, cols, axis, memory.put(x), from, y]);
              return memory.floats(y, n);
            };
            const same = memory.put(acc);
            return [run(0, memory.output(n)), run(memory.put(acc), memory.output(n)), run(same, same)];
          },
          ([plain, separate, inPlace], isa) => {
            const label = `${isa} kind ${kind} axis ${axis} [${rows}, ${cols}]`;
            assert.ok(errorOf(plain!, want) <= 2e-6, `${label}: ${errorOf(plain!, want)}`);
            assert.ok(errorOf(separate!, added) <= 2e-6, label);
            assert.deepEqual(inPlace, separate, label);
          },
        );
      }
    }
  }
});

test("a NaN anywhere makes the maximum NaN, infinities do not", () => {
  for (const at of [0, 3, 40, 66]) {
    const x = randomFloats(67, 5);
    x[10] = Number.POSITIVE_INFINITY;
    x[11] = Number.NEGATIVE_INFINITY;
    everywhere(
      (memory, rt) => {
        const run = (values: Float32Array, axis: number) => {
          const y = memory.output(1);
          runKernel(rt, "reduce", [2, 1, 67, axis, memory.put(values), 0, y]);
          return memory.floats(y, 1)[0]!;
        };
        const spoiled = x.slice();
        spoiled[at] = Number.NaN;
        return [Float32Array.of(run(x, 1), run(x, 2), run(spoiled, 1), run(spoiled, 2))];
      },
      ([y], isa) => {
        assert.deepEqual([...y], [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, Number.NaN, Number.NaN], isa);
      },
    );
  }
});

test("sums of many equal numbers do not drift", () => {
  const n = 1_000_003;
  const x = new Float32Array(n).fill(0.1);
  everywhere(
    (memory, rt) => {
      const [all, columns] = [memory.output(1), memory.output(1)];
      const at = memory.put(x);
      runKernel(rt, "reduce", [0, 1, n, 2, at, 0, all]);
      runKernel(rt, "column_sum", [n, 1, 1, at, 0, columns]);
      return [memory.floats(all, 1), memory.floats(columns, 1)];
    },
    ([all, columns], isa) => {
      const want = [n * Math.fround(0.1)];
      assert.ok(errorOf(all!, want) <= 1e-6, `${isa}: ${all}`);
      assert.ok(errorOf(columns!, want) <= 2e-4, `${isa}: ${columns}`); // runs of 64 in one f32 accumulator
    },
  );
});

test("column_sum, scaled, plus acc", () => {
  for (const [rows, cols] of SHAPES) {
    const x = randomFloats(rows * cols, 3);
    const acc = randomFloats(cols, 4);
    const want = new Float64Array(cols);
    x.forEach((v, i) => {
      want[i % cols]! += 0.5 * v;
    });
    const added = want.map((v, i) => v + acc[i]!);
    everywhere(
      (memory, rt) => {
        const run = (from: number, y: number) => {
          runKernel(rt, "column_sum", [rows, cols, 0.5, memory.put(x), from, y]);
          return memory.floats(y, cols);
        };
        const same = memory.put(acc);
        return [run(0, memory.output(cols)), run(memory.put(acc), memory.output(cols)), run(same, same)];
      },
      ([plain, separate, inPlace], isa) => {
        assert.ok(errorOf(plain!, want) <= 5e-6, `${isa} [${rows}, ${cols}]: ${errorOf(plain!, want)}`);
        assert.ok(errorOf(separate!, added) <= 5e-6, `${isa} [${rows}, ${cols}]`);
        assert.deepEqual(inPlace, separate, isa);
      },
    );
  }
});
