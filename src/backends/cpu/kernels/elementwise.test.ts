import assert from "node:assert/strict";
import { test } from "node:test";
import { UNARY_KINDS } from "../../../ops/elementwise.ts";
import { erf, errorOf, everywhere, numericGradient, unitsInLastPlace } from "../../../testing/kernel-cases.ts";
import { randomFloats, runKernel } from "../../../testing/kernels.ts";

const log1mexp = (x: number) => (x > -Math.LN2 ? Math.log(-Math.expm1(x)) : Math.log1p(-Math.exp(x)));
const logSigmoid = (x: number) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)));
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const geluTanh = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

interface Unary {
  f: (x: number, c: number) => number;
  /** Where the cases are drawn from: [from, to]. */
  domain: [number, number];
}

/** By kind, in the kernel's order. */
const UNARY: Record<(typeof UNARY_KINDS)[number], Unary> = {
  neg: { f: (x) => -x, domain: [-4, 4] },
  exp: { f: Math.exp, domain: [-4, 4] },
  log: { f: Math.log, domain: [0.01, 5] },
  sigmoid: { f: sigmoid, domain: [-8, 8] },
  logSigmoid: { f: logSigmoid, domain: [-12, 12] },
  relu: { f: (x) => Math.max(0, x), domain: [-2, 2] },
  tanh: { f: Math.tanh, domain: [-3, 3] },
  sqrt: { f: Math.sqrt, domain: [0.01, 9] },
  abs: { f: Math.abs, domain: [-3, 3] },
  square: { f: (x) => x * x, domain: [-3, 3] },
  reciprocal: { f: (x) => 1 / x, domain: [0.2, 4] },
  silu: { f: (x) => x * sigmoid(x), domain: [-8, 8] },
  geluTanh: { f: geluTanh, domain: [-6, 6] },
  gelu: { f: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)), domain: [-6, 6] },
  scale: { f: (x, c) => c * x, domain: [-3, 3] },
  shift: { f: (x, c) => c + x, domain: [-3, 3] },
  softcap: { f: (x, c) => c * Math.tanh(x / c), domain: [-6, 6] },
  atLeast: { f: (x, c) => Math.max(x, c), domain: [-3, 3] },
  atMost: { f: (x, c) => Math.min(x, c), domain: [-3, 3] },
  log1mexp: { f: log1mexp, domain: [-8, -0.01] },
  rsqrt: { f: (x) => 1 / Math.sqrt(x), domain: [0.2, 4] },
  sign: { f: Math.sign, domain: [-2, 2] },
};
const C = 1.75;

UNARY_KINDS.forEach((kind, k) => {
  test(`unary ${kind} and its derivative`, () => {
    const { f, domain } = UNARY[kind];
    for (const n of [1, 7, 64, 8200]) {
      const x = randomFloats(n, 11).map((u) => domain[0] + ((u + 1) / 2) * (domain[1] - domain[0]));
      const dy = randomFloats(n, 12);
      const y = Float64Array.from(x, (v) => f(v, C));
      const dx = Float64Array.from(x, (v, i) => dy[i]! * numericGradient([v], ([at]) => f(at!, C))[0]!);
      everywhere(
        (memory, rt) => {
          const [at, grad, out] = [memory.put(x), memory.put(dy), memory.output(n)];
          runKernel(rt, "unary", [n, k, C, at, out]);
          const value = memory.floats(out, n);
          const gradient = memory.output(n);
          runKernel(rt, "unary_grad", [n, k, C, at, out, grad, gradient]);
          const apart = memory.floats(gradient, n);
          runKernel(rt, "unary_grad", [n, k, C, at, out, grad, grad]); // dx over dy
          runKernel(rt, "unary", [n, k, C, at, at]); // y over x
          return [value, memory.floats(at, n), apart, memory.floats(grad, n)];
        },
        ([value, inPlace, gradient, gradientInPlace], isa) => {
          assert.ok(errorOf(value!, y) <= 1e-6, `${isa} n=${n}: ${errorOf(value!, y)}`);
          assert.ok(errorOf(gradient!, dx) <= 2e-6, `${isa} gradient, n=${n}: ${errorOf(gradient!, dx)}`);
          assert.deepEqual(inPlace, value);
          assert.deepEqual(gradientInPlace, gradient);
        },
      );
    }
  });
});

/** Every 262,147th f32 there is: all exponents, both signs, subnormals, infinities and NaNs. */
const GRID = new Float32Array(Uint32Array.from({ length: 16_384 }, (_, i) => Math.imul(i, 262_147)).buffer);

test("exp, log, sigmoid and tanh keep to their last-place bounds over all floats", () => {
  // Largest error in units of the last place; results below 1.7e-38 may be flushed to 0.
  const bounds = { exp: 1.1, log: 2, sigmoid: 3, tanh: 2 } as const;
  for (const [kind, bound] of Object.entries(bounds) as [keyof typeof bounds, number][]) {
    everywhere(
      (memory, rt) => {
        const out = memory.output(GRID.length);
        runKernel(rt, "unary", [GRID.length, UNARY_KINDS.indexOf(kind), 0, memory.put(GRID), out]);
        return [memory.floats(out, GRID.length)];
      },
      ([got], isa) => {
        GRID.forEach((x, i) => {
          const want = UNARY[kind].f(x, 0);
          const y = got[i]!;
          const single = Math.fround(want);
          if (Number.isNaN(want)) assert.ok(Number.isNaN(y), `${isa}: ${kind}(${x}) = ${y}, not NaN`);
          else if (!Number.isFinite(single)) assert.equal(y, single, `${isa}: ${kind}(${x})`);
          else if (Math.abs(want) < 1.7e-38) assert.ok(Math.abs(y) < 1.7e-38, `${isa}: ${kind}(${x}) = ${y}`);
          else assert.ok(unitsInLastPlace(y, want) <= bound, `${isa}: ${kind}(${x}) = ${y}, not ${single}`);
        });
      },
    );
  }
});

test("log σ and log(1 − e^x) keep small results and do not break at the ends", () => {
  const x = Float32Array.of(20, 60, 88, 100, -100, -3e38, 1e-30, Number.NEGATIVE_INFINITY);
  const z = Float32Array.of(-1e-30, -1e-6, -0.69, -0.7, -17, -87, -1e30, -0);
  everywhere(
    (memory, rt) => {
      const [a, b] = [memory.output(8), memory.output(8)];
      runKernel(rt, "unary", [8, UNARY_KINDS.indexOf("logSigmoid"), 0, memory.put(x), a]);
      runKernel(rt, "unary", [8, UNARY_KINDS.indexOf("log1mexp"), 0, memory.put(z), b]);
      return [memory.floats(a, 8), memory.floats(b, 8)];
    },
    ([a, b], isa) => {
      x.forEach((v, i) => {
        const want = logSigmoid(v);
        const fine = want === a![i] || unitsInLastPlace(a![i]!, want) <= 4 || Math.abs(want) < 1.7e-38;
        assert.ok(fine, `${isa}: logσ(${v}) = ${a![i]}, not ${want}`);
      });
      z.forEach((v, i) => {
        const want = log1mexp(v);
        const fine = want === b![i] || unitsInLastPlace(b![i]!, want) <= 4 || Math.abs(want) < 1.7e-38;
        assert.ok(fine, `${isa}: log1mexp(${v}) = ${b![i]}, not ${want}`);
      });
    },
  );
});

const BINARY: readonly (readonly [string, (a: number, b: number) => number])[] = [
  ["add", (a, b) => a + b],
  ["sub", (a, b) => a - b],
  ["mul", (a, b) => a * b],
  ["div", (a, b) => a / b],
  ["max", Math.max],
  ["min", Math.min],
  ["greater", (a, b) => Number(a > b)],
  ["equal", (a, b) => Number(a === b)],
];

/** The last ones are larger than the kernel's tiles. */
const BINARY_SHAPES = [
  [1, 1],
  [3, 7],
  [5, 64],
  [1, 9000],
  [9000, 1],
  [130, 70],
] as const;

BINARY.forEach(([name, f], kind) => {
  test(`binary ${name} with every spread of its operands`, () => {
    for (const [rows, cols] of name === "add" ? BINARY_SHAPES : BINARY_SHAPES.slice(0, 3)) {
      const lengths = [rows * cols, cols, rows, 1];
      const index = [
        (r: number, j: number) => r * cols + j,
        (_: number, j: number) => j,
        (r: number) => r,
        () => 0,
      ] as const;
      for (const [aMode, bMode] of [
        [0, 0],
        [0, 1],
        [1, 0],
        [0, 2],
        [2, 0],
        [0, 3],
        [3, 0],
        [1, 2],
        [2, 1],
      ] as const) {
        const round = (x: number) => Math.round(4 * x) / 4 + (name === "div" ? 1.5 : 0); // so that some are equal
        const a = randomFloats(lengths[aMode]!, 1).map(round);
        const b = randomFloats(lengths[bMode]!, 2).map(round);
        const want = Float64Array.from({ length: rows * cols }, (_, i) => {
          const [r, j] = [Math.floor(i / cols), i % cols];
          return f(a[index[aMode](r, j)]!, b[index[bMode](r, j)]!);
        });
        everywhere(
          (memory, rt) => {
            const run = (place: (a: number, b: number) => number) => {
              const [x, y] = [memory.put(a), memory.put(b)];
              const out = place(x, y);
              runKernel(rt, "binary", [kind, rows, cols, x, aMode, y, bMode, out]);
              return memory.floats(out, rows * cols);
            };
            const apart = run(() => memory.output(rows * cols));
            return [apart, aMode === 0 ? run((x) => x) : apart, bMode === 0 ? run((_, y) => y) : apart];
          },
          ([apart, overA, overB], isa) => {
            assert.ok(errorOf(apart, want) <= 1e-7, `${isa} [${rows}, ${cols}] modes ${aMode}, ${bMode}`);
            assert.deepEqual(overA, apart);
            assert.deepEqual(overB, apart);
          },
        );
      }
    }
  });
});

test("max, min and the clamps let NaN through, as torch does", () => {
  const a = Float32Array.of(Number.NaN, 1, Number.NaN, 2);
  const b = Float32Array.of(1, Number.NaN, Number.NaN, 3);
  everywhere(
    (memory, rt) => {
      const out = [4, 5].map((kind) => {
        const y = memory.output(4);
        runKernel(rt, "binary", [kind, 1, 4, memory.put(a), 0, memory.put(b), 0, y]);
        return memory.floats(y, 4);
      });
      for (const kind of ["relu", "atLeast", "atMost"] as const) {
        const y = memory.output(4);
        runKernel(rt, "unary", [4, UNARY_KINDS.indexOf(kind), 1, memory.put(a), y]);
        out.push(memory.floats(y, 4));
      }
      return out;
    },
    ([max, min, ...clamps], isa) => {
      assert.deepEqual([...max!].map(Number.isNaN), [true, true, true, false], isa);
      assert.deepEqual([...min!].map(Number.isNaN), [true, true, true, false], isa);
      for (const y of clamps) assert.deepEqual([...y].map(Number.isNaN), [true, false, true, false], isa);
    },
  );
});

test("fill and copy touch exactly their bytes", () => {
  for (const bytes of [1, 5, 4096, 300_001]) {
    const source = Uint8Array.from({ length: bytes }, (_, i) => (i * 7) % 251);
    everywhere(
      (memory, rt) => {
        const x = memory.put(new Uint8Array(bytes + 3).fill(9));
        runKernel(rt, "fill", [bytes, 255, x]);
        const filled = memory.copy(x, bytes + 3);
        runKernel(rt, "copy", [bytes, memory.put(source), x]);
        return [filled, memory.copy(x, bytes + 3)];
      },
      ([filled, copied], isa) => {
        assert.ok(
          filled!.subarray(0, bytes).every((b) => b === 255),
          isa,
        );
        assert.deepEqual(copied!.subarray(0, bytes), source, isa);
        for (const x of [filled!, copied!]) assert.deepEqual([...x.subarray(bytes)], [9, 9, 9], isa);
      },
    );
  }
});

test("fill of a buffer larger than the caches, from an odd address", () => {
  const bytes = 2 ** 24 + 5;
  const want = Buffer.alloc(bytes + 4, 9).fill(200, 1, bytes + 1);
  everywhere(
    (memory, rt) => {
      const x = memory.put(new Uint8Array(bytes + 4).fill(9));
      runKernel(rt, "fill", [bytes, 200, x + 1]);
      return [Uint8Array.of(want.equals(memory.copy(x, bytes + 4)) ? 1 : 0)];
    },
    ([same], isa) => assert.deepEqual([...same], [1], isa),
  );
});
