import assert from "node:assert/strict";
import { test } from "node:test";
import { erf, errorOf, everywhere, numericGradient } from "../../../testing/kernel-cases.ts";
import { randomFloats, runKernel } from "../../../testing/kernels.ts";

/** The activations in float64, in the kernel's order. */
const ACTIVATIONS: readonly (readonly [string, (x: number) => number])[] = [
  ["silu", (x) => x / (1 + Math.exp(-x))],
  ["gelu tanh", (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))],
  ["gelu erf", (x) => 0.5 * x * (1 + erf(x / Math.SQRT2))],
];
const SIZES = [1, 3, 8, 31, 1000];

ACTIVATIONS.forEach(([name, f], act) => {
  test(`glu and glu_grad with ${name}, in every place`, () => {
    for (const n of SIZES) {
      const gate = randomFloats(n, 1).map((x) => 6 * x);
      const [up, dh] = [randomFloats(n, 2), randomFloats(n, 3)];
      const h = Float64Array.from(gate, (x, i) => f(x) * up[i]!);
      const slope = Float64Array.from(gate, (x) => numericGradient([x], ([v]) => f(v!))[0]!);
      const dgate = slope.map((s, i) => s * up[i]! * dh[i]!);
      const dup = Float64Array.from(gate, (x, i) => f(x) * dh[i]!);
      everywhere(
        (memory, rt) => {
          const forward = (place: (g: number, u: number) => number) => {
            const [g, u] = [memory.put(gate), memory.put(up)];
            const out = place(g, u);
            runKernel(rt, "glu", [n, act, g, u, out]);
            return memory.floats(out, n);
          };
          const backward = (place: (g: number, u: number, d: number) => [number, number]) => {
            const [g, u, d] = [memory.put(gate), memory.put(up), memory.put(dh)];
            const [dg, du] = place(g, u, d);
            runKernel(rt, "glu_grad", [n, act, g, u, d, dg, du]);
            return [memory.floats(dg, n), memory.floats(du, n)];
          };
          return [
            forward(() => memory.output(n)),
            forward((g) => g),
            forward((_, u) => u),
            ...backward(() => [memory.output(n), memory.output(n)]),
            ...backward((g, u) => [g, u]),
            ...backward((g, _, d) => [g, d]),
          ];
        },
        (outputs, isa) => {
          const wants = [h, h, h, dgate, dup, dgate, dup, dgate, dup];
          outputs.forEach((got, i) => {
            const error = errorOf(got, wants[i]!);
            assert.ok(error <= 2e-6, `${isa} n=${n}, output ${i}: ${error}`);
          });
        },
      );
    }
  });

  test(`${name} has no NaN at large gates`, () => {
    const gate = Float32Array.of(100, -100, 1e30, -1e30, 3e38, -3e38, 88.5, -88.5, 0, -0);
    const ones = new Float32Array(gate.length).fill(1);
    everywhere(
      (memory, rt) => {
        const [g, one] = [memory.put(gate), memory.put(ones)];
        const [h, dg, du] = [memory.output(10), memory.output(10), memory.output(10)];
        runKernel(rt, "glu", [10, act, g, one, h]);
        runKernel(rt, "glu_grad", [10, act, g, one, one, dg, du]);
        return [memory.floats(h, 10), memory.floats(dg, 10), memory.floats(du, 10)];
      },
      ([h, dg, du], isa) => {
        gate.forEach((x, i) => {
          const [value, slope] = x > 1 ? [x, 1] : x < -1 ? [0, 0] : [0, 0.5];
          assert.ok(Math.abs(h![i]! - value) <= 1e-6 * Math.abs(value) + 1e-30, `${isa}: h(${x}) = ${h![i]}`);
          assert.ok(Math.abs(dg![i]! - slope) <= 1e-6, `${isa}: slope(${x}) = ${dg![i]}`);
          assert.ok(Math.abs(du![i]! - value) <= 1e-6 * Math.abs(value) + 1e-30, `${isa}: du(${x}) = ${du![i]}`);
        });
      },
    );
  });
});
