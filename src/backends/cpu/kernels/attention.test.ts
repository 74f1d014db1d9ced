import assert from "node:assert/strict";
import { test } from "node:test";
import { everywhere, numericGradient } from "../../../testing/kernel-cases.ts";
import { randomFloats, relativeError, runKernel } from "../../../testing/kernels.ts";

interface Case {
  /** Lengths of the packed sequences. */
  lengths: readonly number[];
  H: number;
  Hkv: number;
  D: number;
  window?: number;
  softcap?: number;
  causal?: boolean;
}

const sizes = ({ lengths, H, Hkv, D }: Case) => {
  const T = lengths.reduce((a, b) => a + b, 0);
  return { T, nq: T * H * D, nk: T * Hkv * D };
};

function bounds(lengths: readonly number[]): { seqStart: Int32Array; seqEnd: Int32Array } {
  const starts: number[] = [];
  const ends: number[] = [];
  for (const length of lengths) {
    const start = starts.length;
    for (let i = 0; i < length; i++) {
      starts.push(start);
      ends.push(start + length);
    }
  }
  return { seqStart: Int32Array.from(starts), seqEnd: Int32Array.from(ends) };
}

type Numbers = ArrayLike<number>;

/** Attention and, given dO, its gradients, by the formula in float64. */
function reference(c: Case, q: Numbers, k: Numbers, v: Numbers, dO?: Numbers) {
  const { H, Hkv, D, window = 0, softcap = 0, causal = true } = c;
  const { T, nq, nk } = sizes(c);
  const { seqStart, seqEnd } = bounds(c.lengths);
  const scale = D ** -0.5;
  const [o, lse] = [new Float64Array(nq), new Float64Array(H * T)];
  const [dq, dk, dv] = [new Float64Array(nq), new Float64Array(nk), new Float64Array(nk)];
  for (let t = 0; t < T; t++) {
    const lo = causal && window ? Math.max(seqStart[t]!, t - window + 1) : seqStart[t]!;
    const hi = causal ? t + 1 : seqEnd[t]!;
    for (let h = 0; h < H; h++) {
      const [at, kv] = [(t * H + h) * D, Math.floor((h * Hkv) / H)];
      const [x, slope, dp]: number[][] = [[], [], []];
      for (let s = lo; s < hi; s++) {
        let [dot, back] = [0, 0];
        for (let j = 0; j < D; j++) {
          dot += q[at + j]! * k[(s * Hkv + kv) * D + j]!;
          if (dO) back += dO[at + j]! * v[(s * Hkv + kv) * D + j]!;
        }
        const tanh = softcap ? Math.tanh((scale * dot) / softcap) : 0;
        x!.push(softcap ? softcap * tanh : scale * dot);
        slope!.push(scale * (1 - tanh * tanh));
        dp!.push(back);
      }
      const max = Math.max(...x!);
      const total = x!.reduce((sum, value) => sum + Math.exp(value - max), 0);
      lse[h * T + t] = max + Math.log(total);
      const p = x!.map((value) => Math.exp(value - max) / total);
      const delta = p.reduce((sum, value, i) => sum + value * dp![i]!, 0);
      p.forEach((pi, i) => {
        const key = ((lo + i) * Hkv + kv) * D;
        const ds = pi * (dp![i]! - delta) * slope![i]!;
        for (let j = 0; j < D; j++) {
          o[at + j] = o[at + j]! + pi * v[key + j]!;
          if (!dO) continue;
          dv[key + j] = dv[key + j]! + pi * dO[at + j]!;
          dk[key + j] = dk[key + j]! + ds * q[at + j]!;
          dq[at + j] = dq[at + j]! + ds * k[key + j]!;
        }
      });
    }
  }
  return { o, lse, dq, dk, dv };
}

const NAMES = ["o", "lse", "dq", "dk", "dv"] as const;
type Bounds = ReturnType<typeof bounds>;

/** o, lse, dq, dk, dv of the kernels, on every runtime. */
function run(
  c: Case,
  data: { q: Float32Array; k: Float32Array; v: Float32Array; dO: Float32Array } & Partial<Bounds>,
  check: (outputs: readonly Float32Array[], isa: string) => void,
): void {
  const { T, nq, nk } = sizes(c);
  const { seqStart, seqEnd } = { ...bounds(c.lengths), ...data };
  everywhere((memory, rt) => {
    const tensors = [data.q, data.k, data.v, seqStart, seqEnd].map((x) => memory.put(x));
    const options = [c.D ** -0.5, c.window ?? 0, c.softcap ?? 0, c.causal ?? true];
    const head = [T, c.H, c.Hkv, c.D, ...tensors, ...options];
    const [o, lse, dq, dk, dv] = [nq, c.H * T, nq, nk, nk].map((n) => memory.output(n)) as [
      number,
      number,
      ...number[],
    ];
    runKernel(rt, "attention", [...head, o, lse]);
    runKernel(rt, "attention_grad", [...head, o, lse, memory.put(data.dO), dq!, dk!, dv!]);
    return [
      memory.floats(o, nq),
      memory.floats(lse, c.H * T),
      memory.floats(dq!, nq),
      memory.floats(dk!, nk),
      memory.floats(dv!, nk),
    ];
  }, check);
}

function inputs(c: Case, spread = 2) {
  const { nq, nk } = sizes(c);
  const q = randomFloats(nq, 1).map((x) => spread * x);
  const k = randomFloats(nk, 2).map((x) => spread * x);
  return { q, k, v: randomFloats(nk, 3), dO: randomFloats(nq, 4) };
}

function check(c: Case): void {
  const data = inputs(c);
  const want = reference(c, data.q, data.k, data.v, data.dO);
  run(c, data, (outputs, isa) => {
    NAMES.forEach((name, i) => {
      const error = relativeError(outputs[i]!, want[name]);
      assert.ok(error <= 1e-5, `${isa} ${JSON.stringify(c)}: ${name} differs by ${error}`);
    });
  });
}

test("packed sequences, grouped heads, every kind of head size", () => {
  check({ lengths: [37], H: 2, Hkv: 1, D: 16 });
  check({ lengths: [50, 1, 99, 1, 1], H: 3, Hkv: 1, D: 24 });
  check({ lengths: [13, 60, 3], H: 4, Hkv: 2, D: 40 });
  check({ lengths: [30], H: 5, Hkv: 5, D: 7 });
  check({ lengths: [9], H: 6, Hkv: 1, D: 257 });
  check({ lengths: [10], H: 1, Hkv: 1, D: 512 });
  check({ lengths: [20], H: 2, Hkv: 2, D: 1 });
  check({ lengths: [130, 100], H: 3, Hkv: 1, D: 64 });
});

test("sequences longer than a block of queries or keys", () => {
  check({ lengths: [300], H: 1, Hkv: 1, D: 32 });
  check({ lengths: [7, 250], H: 2, Hkv: 1, D: 8, causal: false });
});

test("windows, softcap, attention to both sides", () => {
  check({ lengths: [150, 50], H: 2, Hkv: 2, D: 16, window: 33 });
  check({ lengths: [120], H: 2, Hkv: 1, D: 24, window: 2 });
  check({ lengths: [40, 70], H: 2, Hkv: 1, D: 16, softcap: 0.7 });
  check({ lengths: [110], H: 1, Hkv: 1, D: 20, softcap: 3, window: 64 });
  check({ lengths: [61, 40, 1], H: 2, Hkv: 1, D: 16, causal: false });
  check({ lengths: [33], H: 2, Hkv: 1, D: 16, causal: false, softcap: 1 });
});

test("a token that sees itself alone: o = v, lse = its logit, no gradient to q and k", () => {
  const c: Case = { lengths: [1, 1, 1], H: 2, Hkv: 1, D: 16 };
  const data = inputs(c);
  const want = reference(c, data.q, data.k, data.v);
  run(c, data, ([o, lse, dq, dk], isa) => {
    for (let i = 0; i < o!.length; i++) assert.equal(o![i], data.v[Math.floor(i / 32) * 16 + (i % 16)], isa);
    assert.ok(relativeError(lse!, want.lse) <= 1e-6, isa);
    for (const gradient of [dq!, dk!]) assert.ok(Math.max(...gradient.map(Math.abs)) <= 1e-5, isa);
  });
});

test("gradients agree with finite differences", () => {
  for (const more of [{}, { softcap: 0.8 }, { window: 3 }, { causal: false }]) {
    const c: Case = { lengths: [5, 2], H: 2, Hkv: 1, D: 4, ...more };
    const data = inputs(c);
    const value = (q: Numbers, k: Numbers, v: Numbers) =>
      reference(c, q, k, v).o.reduce((sum, x, i) => sum + x * data.dO[i]!, 0);
    const want = [
      numericGradient(data.q, (q) => value(q, data.k, data.v)),
      numericGradient(data.k, (k) => value(data.q, k, data.v)),
      numericGradient(data.v, (v) => value(data.q, data.k, v)),
    ];
    run(c, data, (outputs, isa) => {
      want.forEach((gradient, i) => {
        const error = relativeError(outputs[i + 2]!, gradient);
        assert.ok(error <= 1e-5, `${isa} ${JSON.stringify(more)}: ${NAMES[i + 2]} differs by ${error}`);
      });
    });
  }
});

test("large scores neither overflow nor lose the answer", () => {
  const c: Case = { lengths: [100], H: 1, Hkv: 1, D: 16 };
  const data = inputs(c, 20);
  const want = reference(c, data.q, data.k, data.v, data.dO);
  run(c, data, (outputs, isa) => {
    NAMES.forEach((name, i) => {
      const error = relativeError(outputs[i]!, want[name]);
      assert.ok(error <= 1e-4, `${isa}: ${name} differs by ${error}`); // scores of 500 carry an error of 3e-5 themselves
    });
  });
});

test("bounds outside the tokens are cut off; a token that sees nothing gets 0", () => {
  const c: Case = { lengths: [20], H: 2, Hkv: 1, D: 8, causal: false };
  const data = inputs(c);
  const want = reference(c, data.q, data.k, data.v, data.dO);
  const wide = { seqStart: new Int32Array(20).fill(-7), seqEnd: new Int32Array(20).fill(1000) };
  run(c, { ...data, ...wide }, (outputs, isa) => {
    NAMES.forEach((name, i) => assert.ok(relativeError(outputs[i]!, want[name]) <= 1e-5, `${isa}: ${name}`));
  });
  const none = { seqStart: new Int32Array(20).fill(9), seqEnd: new Int32Array(20).fill(9) };
  run(c, { ...data, ...none }, ([o, lse, ...gradients], isa) => {
    for (const zeros of [o!, ...gradients])
      assert.ok(
        zeros.every((x) => x === 0),
        isa,
      );
    assert.ok(
      lse!.every((x) => x === Number.NEGATIVE_INFINITY),
      isa,
    );
  });
});

test("NaN stays visible", () => {
  const c: Case = { lengths: [40], H: 1, Hkv: 1, D: 16 };
  const data = inputs(c);
  data.q[20 * 16] = Number.NaN;
  run(c, data, ([o, lse, dq, dk, dv], isa) => {
    assert.ok(Number.isNaN(o![20 * 16]) && Number.isNaN(lse![20]), isa);
    assert.ok(!Number.isNaN(o![19 * 16]) && !Number.isNaN(o![21 * 16]), isa);
    for (const gradient of [dq!.subarray(20 * 16), dk!, dv!]) assert.ok(Number.isNaN(gradient[0]), isa);
  });
});
