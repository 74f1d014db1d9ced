import assert from "node:assert/strict";
import { test } from "node:test";
import { zeroAdam8bitState } from "../../../quant/adam8bit.ts";
import { errorOf, everywhere } from "../../../testing/kernel-cases.ts";
import { randomFloats, runKernel } from "../../../testing/kernels.ts";
import { oracleFloats, oracleTensors } from "../../../testing/oracle.ts";

const oracle = oracleTensors("optimizers", "adamw.safetensors");
/** bitsandbytes' kernel on an H100 (tests/oracle/adamw8bit_gpu.py). */
const gpu = oracleTensors("adamw8bit", "gpu.safetensors");
const [LR, BETA1, BETA2, EPS, DECAY] = [1e-2, 0.9, 0.999, 1e-8, 0.1];

/** hyper[8] of step t. */
const hyper = (t: number) =>
  Float32Array.of(LR, BETA1, BETA2, EPS, DECAY, 1 - BETA1 ** t, Math.sqrt(1 - BETA2 ** t), Number.NaN);

test("sum_squares adds to acc, in place too, and keeps small terms", () => {
  for (const n of [1, 13, 8192, 100_001]) {
    const x = randomFloats(n, 1);
    const want = x.reduce((sum, v) => sum + v * v, 0);
    everywhere(
      (memory, rt) => {
        const run = (acc: number, out: number) => {
          runKernel(rt, "sum_squares", [n, memory.put(x), acc, out]);
          return memory.floats(out, 1);
        };
        const same = memory.put(Float32Array.of(2.5));
        return [run(0, memory.output(1)), run(memory.put(Float32Array.of(2.5)), memory.output(1)), run(same, same)];
      },
      ([plain, separate, inPlace], isa) => {
        assert.ok(errorOf(plain!, [want]) <= 2e-7, `${isa} n=${n}`);
        assert.ok(errorOf(separate!, [want + 2.5]) <= 2e-7, `${isa} n=${n}`);
        assert.deepEqual(inPlace, separate);
      },
    );
  }
});

test("clip_factor is clip_grad_norm_'s, for ordinary, absent, infinite and NaN norms", () => {
  // sum of squares, maxNorm → norm, factor
  const cases = [
    [4, 1, 2, 1 / (2 + 1e-6)],
    [4, 3, 2, 1],
    [4, 0, 2, 1],
    [4, -1, 2, 1],
    [0, 1, 0, 1],
    [Number.POSITIVE_INFINITY, 1, Number.POSITIVE_INFINITY, 0],
    [Number.NaN, 1, Number.NaN, Number.NaN],
    [Number.NaN, 0, Number.NaN, 1],
  ] as const;
  for (const [sum, maxNorm, ...want] of cases) {
    everywhere(
      (memory, rt) => {
        const [norm, factor] = [memory.output(1), memory.output(1)];
        runKernel(rt, "clip_factor", [
          memory.put(Float32Array.of(sum)),
          memory.put(Float32Array.of(maxNorm)),
          norm,
          factor,
        ]);
        return [Float32Array.of(memory.floats(norm, 1)[0]!, memory.floats(factor, 1)[0]!)];
      },
      ([got], isa) => assert.deepEqual([...got], want.map(Math.fround), `${isa}: ${sum}, ${maxNorm}`),
    );
  }
});

test("adamw follows torch.optim.AdamW for five steps", () => {
  const start = oracleFloats(oracle, "small.start");
  const n = start.length;
  const grads = [1, 2, 3, 4, 5].map((t) => oracleFloats(oracle, `small.grad.${t}`));
  const largest = start.map((_, i) => Math.max(...grads.map((g) => Math.abs(g[i]!))));
  everywhere(
    (memory, rt) => {
      const [p, m, v] = [memory.put(start), memory.put(new Float32Array(n)), memory.put(new Float32Array(n))];
      return grads.flatMap((grad, k) => {
        runKernel(rt, "adamw", [n, p, memory.put(grad), m, v, memory.put(hyper(k + 1)), 0, 1]);
        return [memory.floats(p, n), memory.floats(m, n), memory.floats(v, n)];
      });
    },
    (history, isa) => {
      // Every element against its own size: the gradients span seven orders of magnitude.
      const parts = { p: () => 4, exp_avg: (i: number) => largest[i]!, exp_avg_sq: (i: number) => largest[i]! ** 2 };
      Object.entries(parts).forEach(([part, size], which) => {
        for (let t = 1; t <= 5; t++) {
          const want = oracleFloats(oracle, `small.adamw.${t}.${part}`);
          history[3 * (t - 1) + which]!.forEach((got, i) => {
            const limit = 2.5e-7 * size(i);
            assert.ok(Math.abs(got - want[i]!) <= limit, `${isa} step ${t} ${part}[${i}]: ${got}, ${want[i]}`);
          });
        }
      });
    },
  );
});

test("adamw scales the gradient by the clip factor and decays only when told to", () => {
  const n = 37;
  const [p, g, m] = [randomFloats(n, 1), randomFloats(n, 2), randomFloats(n, 3)];
  const v = randomFloats(n, 4).map(Math.abs);
  for (const decay of [0, 1]) {
    const want = p.map((value, i) => {
      const grad = 0.25 * g[i]!;
      const m1 = BETA1 * m[i]! + (1 - BETA1) * grad;
      const v1 = BETA2 * v[i]! + (1 - BETA2) * grad ** 2;
      const step = ((LR / (1 - BETA1 ** 3)) * m1) / (Math.sqrt(v1) / Math.sqrt(1 - BETA2 ** 3) + EPS);
      return value * (1 - decay * LR * DECAY) - step;
    });
    everywhere(
      (memory, rt) => {
        const at = memory.put(p);
        const factor = memory.put(Float32Array.of(0.25));
        const state = [memory.put(m), memory.put(v)] as const;
        runKernel(rt, "adamw", [n, at, memory.put(g), ...state, memory.put(hyper(3)), factor, decay]);
        return [memory.floats(at, n)];
      },
      ([got], isa) => assert.ok(errorOf(got, want) <= 2e-7, `${isa} decay ${decay}: ${errorOf(got, want)}`),
    );
  }
});

interface Adam8bit {
  p: Float32Array;
  state1: Uint8Array;
  absmax1: Float32Array;
  state2: Uint8Array;
  absmax2: Float32Array;
}

/** What bitsandbytes' GPU kernel had written, by prefix. */
function recorded(prefix: string): Adam8bit {
  return {
    p: oracleFloats(gpu, `${prefix}.p`),
    state1: gpu.get(`${prefix}.state1`)!.data,
    absmax1: oracleFloats(gpu, `${prefix}.absmax1`),
    state2: gpu.get(`${prefix}.state2`)!.data,
    absmax2: oracleFloats(gpu, `${prefix}.absmax2`),
  };
}

const untouched = (p: Float32Array): Adam8bit => ({ p, ...zeroAdam8bitState(p.length) });

/** One step from a state on every runtime, against the recorded one. `fused`: instruction sets that fuse as GPUs do. */
function compareStep(
  {
    from,
    grad,
    h,
    decay = 1,
    factor = 1,
  }: { from: Adam8bit; grad: Float32Array; h: Float32Array; decay?: number; factor?: number },
  want: Adam8bit,
  label: string,
): void {
  const n = grad.length;
  const blocks = from.absmax1.length;
  everywhere(
    (memory, rt) => {
      const [p, q1, a1] = [memory.put(from.p), memory.put(from.state1), memory.put(from.absmax1)];
      const [q2, a2] = [memory.put(from.state2), memory.put(from.absmax2)];
      const maps = ["qmap1", "qmap2"].map((key) => memory.put(oracleFloats(oracle, key)));
      const scalars = [memory.put(h), memory.put(Float32Array.of(factor)), decay];
      runKernel(rt, "adamw8bit", [n, p, memory.put(grad), q1, a1, q2, a2, ...maps, ...scalars]);
      const scales = [memory.floats(a1, blocks), memory.floats(a2, blocks)] as const;
      return [memory.floats(p, n), memory.copy(q1, n), memory.copy(q2, n), ...scales] as const;
    },
    ([p, state1, state2, absmax1, absmax2], isa) => {
      const fused = /avx2|avx512/.test(isa);
      for (const [part, got, wanted] of [
        ["state1", state1, want.state1],
        ["state2", state2, want.state2],
      ] as const) {
        const different = wanted.reduce((count, code, i) => count + (code === got[i] ? 0 : 1), 0);
        assert.ok(different <= (fused ? 0 : 2), `${isa} ${label} ${part}: ${different} codes differ`);
      }
      for (const [part, got, wanted] of [
        ["absmax1", absmax1, want.absmax1],
        ["absmax2", absmax2, want.absmax2],
      ] as const) {
        if (fused) assert.deepEqual(got, wanted, `${isa} ${label} ${part}`);
        else assert.ok(errorOf(got, wanted) <= 1e-6, `${isa} ${label} ${part}`);
      }
      // The GPU computes powers and quotients approximately.
      assert.ok(errorOf(p, want.p) <= 3e-7, `${isa} ${label} p: ${errorOf(p, want.p)}`);
    },
  );
}

test("adamw8bit writes the bytes of bitsandbytes' GPU kernel for five steps, a block without gradients included", () => {
  const start = oracleFloats(oracle, "odd.start");
  for (let t = 1; t <= 5; t++) {
    const from = t === 1 ? untouched(start) : recorded(`odd.${t - 1}`);
    compareStep({ from, grad: oracleFloats(oracle, `odd.grad.${t}`), h: hyper(t) }, recorded(`odd.${t}`), `step ${t}`);
  }
});

test("adamw8bit rounds as the GPU kernel at, above and below every midpoint of the map", () => {
  for (const where of ["at", "above", "below"]) {
    const h = Float32Array.of(LR, 0, 0, EPS, 0, 1, 1, 0); // both β are 0: m = g, v = g²
    const grad = oracleFloats(gpu, `ties.${where}.grad`);
    compareStep({ from: untouched(new Float32Array(256)), grad, h, decay: 0 }, recorded(`ties.${where}`), where);
  }
});

test("adamw8bit passes over NaN and infinite gradients and scales the others, as the GPU kernel does", () => {
  const start = oracleFloats(gpu, "broken.start");
  const [first, second] = [1, 2].map((t) => oracleFloats(gpu, `broken.grad.${t}`)) as [Float32Array, Float32Array];
  compareStep({ from: untouched(start), grad: first, h: hyper(1) }, recorded("broken.1"), "first");
  const from = recorded("broken.1");
  const want = recorded("broken.2");
  compareStep({ from, grad: second, h: hyper(2), factor: 0.25 }, want, "second");
  for (const i of [5, 6, 300]) assert.equal(want.p[i], from.p[i]);
});
