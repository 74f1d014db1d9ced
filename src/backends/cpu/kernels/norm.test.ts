import assert from "node:assert/strict";
import { test } from "node:test";
import { errorOf, everywhere, numericGradient } from "../../../testing/kernel-cases.ts";
import { randomFloats, runKernel } from "../../../testing/kernels.ts";

const EPS = 1e-5;
const SHAPES = [
  [1, 1],
  [3, 2],
  [2, 7],
  [5, 16],
  [4, 33],
  [37, 64],
  [3, 129],
  [70, 20],
] as const;

/** x·rsqrt(mean(x²) + eps)·(offset + w), in float64. */
function rmsNorm(x: ArrayLike<number>, w: ArrayLike<number>, rows: number, d: number, offset: number): Float64Array {
  const y = new Float64Array(rows * d);
  for (let r = 0; r < rows; r++) {
    let squares = 0;
    for (let j = 0; j < d; j++) squares += x[r * d + j]! ** 2;
    const scale = 1 / Math.sqrt(squares / d + EPS);
    for (let j = 0; j < d; j++) y[r * d + j] = x[r * d + j]! * scale * (offset + w[j]!);
  }
  return y;
}

const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
};

test("rms_norm, with and without a residual, into new memory, x or the residual", () => {
  for (const [rows, d] of SHAPES) {
    for (const offset of [0, 1]) {
      const x = randomFloats(rows * d, 1).map((v) => 3 * v);
      const [w, residual] = [randomFloats(d, 2), randomFloats(rows * d, 3)];
      const plain = rmsNorm(x, w, rows, d, offset);
      const added = plain.map((v, i) => v + residual[i]!);
      everywhere(
        (memory, rt) => {
          const run = (from: number, res: number, y: number) => {
            runKernel(rt, "rms_norm", [rows, d, from, memory.put(w), EPS, offset, res, y]);
            return memory.floats(y, rows * d);
          };
          const [onX, onResidual, onBoth] = [memory.put(x), memory.put(residual), memory.put(x)];
          return [
            run(memory.put(x), 0, memory.output(rows * d)),
            run(onX, 0, onX),
            run(memory.put(x), memory.put(residual), memory.output(rows * d)),
            run(memory.put(x), onResidual, onResidual),
            run(onBoth, memory.put(residual), onBoth),
          ];
        },
        (outputs, isa) => {
          outputs.forEach((y, i) => {
            const error = errorOf(y, i < 2 ? plain : added);
            assert.ok(error <= 1e-6, `${isa} [${rows}, ${d}] offset ${offset}, case ${i}: ${error}`);
          });
          assert.deepEqual(outputs[1], outputs[0], isa);
        },
      );
    }
  }
});

test("rms_norm survives zero rows, large and tiny values", () => {
  const x = Float32Array.of(0, 0, 0, 1e18, -1e18, 5e17, 1e-30, 1e-30, 0);
  const w = Float32Array.of(1, 2, 3);
  everywhere(
    (memory, rt) => {
      const y = memory.output(9);
      runKernel(rt, "rms_norm", [3, 3, memory.put(x), memory.put(w), EPS, 0, 0, y]);
      return [memory.floats(y, 9)];
    },
    ([y], isa) => {
      assert.deepEqual([...y.subarray(0, 3)], [0, 0, 0], isa);
      assert.ok(errorOf(y.subarray(3, 6), rmsNorm(x, w, 3, 3, 0).subarray(3, 6)) <= 1e-6, isa);
      assert.ok(Math.abs(y[6]! - 1e-30 / Math.sqrt(EPS)) < 1e-33, isa);
    },
  );
});

test("rms_norm_grad is the derivative, added to acc, also over dy or acc", () => {
  for (const [rows, d] of SHAPES.slice(0, 7)) {
    const x = randomFloats(rows * d, 1).map((v) => 2 * v);
    const [w, dy, acc] = [randomFloats(d, 2), randomFloats(rows * d, 3), randomFloats(rows * d, 4)];
    const plain = new Float64Array(rows * d);
    for (let r = 0; r < rows; r++) {
      const g = dy.subarray(r * d, (r + 1) * d);
      plain.set(
        numericGradient(x.subarray(r * d, (r + 1) * d), (row) => dot(rmsNorm(row, w, 1, d, 1), g)),
        r * d,
      );
    }
    const added = plain.map((v, i) => v + acc[i]!);
    everywhere(
      (memory, rt) => {
        const run = (g: number, from: number, dx: number) => {
          runKernel(rt, "rms_norm_grad", [rows, d, g, memory.put(x), memory.put(w), EPS, 1, from, dx]);
          return memory.floats(dx, rows * d);
        };
        const [onDy, onAcc] = [memory.put(dy), memory.put(acc)];
        return [
          run(memory.put(dy), 0, memory.output(rows * d)),
          run(onDy, 0, onDy),
          run(memory.put(dy), memory.put(acc), memory.output(rows * d)),
          run(memory.put(dy), onAcc, onAcc),
        ];
      },
      (outputs, isa) =>
        outputs.forEach((dx, i) => {
          const error = errorOf(dx, i < 2 ? plain : added);
          assert.ok(error <= 1e-5, `${isa} [${rows}, ${d}], case ${i}: ${error}`);
        }),
    );
  }
});

test("rms_norm_grad_weight sums over rows, the same for any number of threads", () => {
  for (const [rows, d] of [...SHAPES, [515, 9], [1100, 40]] as const) {
    const x = randomFloats(rows * d, 1);
    const [dy, acc] = [randomFloats(rows * d, 3), randomFloats(d, 4)];
    const unit = rmsNorm(x, new Float32Array(d).fill(1), rows, d, 0); // x·rstd, linear in w
    const plain = new Float64Array(d);
    unit.forEach((v, i) => {
      plain[i % d]! += v * dy[i]!;
    });
    const added = plain.map((v, i) => v + acc[i]!);
    everywhere(
      (memory, rt) => {
        const run = (from: number, dw: number) => {
          runKernel(rt, "rms_norm_grad_weight", [rows, d, memory.put(dy), memory.put(x), EPS, from, dw]);
          return memory.floats(dw, d);
        };
        const same = memory.put(acc);
        return [run(0, memory.output(d)), run(memory.put(acc), memory.output(d)), run(same, same)];
      },
      ([first, second, third], isa) => {
        for (const [got, want] of [
          [first, plain],
          [second, added],
        ] as const) {
          const error = errorOf(got!, want);
          assert.ok(error <= 3e-6, `${isa} [${rows}, ${d}]: ${error}`);
        }
        assert.deepEqual(third, second, isa);
      },
    );
  }
});
