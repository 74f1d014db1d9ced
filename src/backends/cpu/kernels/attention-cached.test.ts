import assert from "node:assert/strict";
import { test } from "node:test";
import { everywhere } from "../../../testing/kernel-cases.ts";
import { randomFloats, randomSource, relativeError, runKernel } from "../../../testing/kernels.ts";

interface Case {
  H: number;
  Hkv: number;
  D: number;
  /** Sequences in the cache, and entries of each. */
  B: number;
  maxLength: number;
  /** For each token its sequence and the entries it sees. */
  tokens: readonly (readonly [row: number, length: number])[];
  window?: number;
  softcap?: number;
}

function reference(c: Case, q: Float32Array, k: Float32Array, v: Float32Array): Float64Array {
  const { H, Hkv, D, window = 0, softcap = 0 } = c;
  const o = new Float64Array(q.length);
  c.tokens.forEach(([row, length], i) => {
    const hi = row < 0 ? 0 : Math.max(0, Math.min(length, c.maxLength));
    const lo = window ? Math.max(0, hi - window) : 0;
    for (let h = 0; h < H; h++) {
      const at = (i * H + h) * D;
      const keyAt = (s: number) => ((row * c.maxLength + s) * Hkv + Math.floor((h * Hkv) / H)) * D;
      const scores: number[] = [];
      for (let s = lo; s < hi; s++) {
        let dot = 0;
        for (let j = 0; j < D; j++) dot += q[at + j]! * k[keyAt(s) + j]!;
        dot *= D ** -0.5;
        scores.push(softcap ? softcap * Math.tanh(dot / softcap) : dot);
      }
      const max = Math.max(...scores);
      const weights = scores.map((x) => Math.exp(x - max));
      const total = weights.reduce((a, b) => a + b, 0);
      weights.forEach((w, s) => {
        for (let j = 0; j < D; j++) o[at + j] = o[at + j]! + (w / total) * v[keyAt(lo + s) + j]!;
      });
    }
  });
  return o;
}

function check(c: Case): void {
  const N = c.tokens.length;
  const q = randomFloats(N * c.H * c.D, 1).map((x) => 3 * x);
  const [k, v] = [2, 3].map((seed) => randomFloats(c.B * c.maxLength * c.Hkv * c.D, seed)) as [
    Float32Array,
    Float32Array,
  ];
  const want = reference(c, q, k, v);
  const [rows, lengths] = [0, 1].map((i) => Int32Array.from(c.tokens, (token) => token[i]!)) as [
    Int32Array,
    Int32Array,
  ];
  everywhere(
    (memory, rt) => {
      const o = memory.output(q.length);
      const tensors = [q, k, v].map((x) => memory.put(x));
      runKernel(rt, "attention_cached", [
        ...[N, c.H, c.Hkv, c.D, ...tensors, c.maxLength, memory.put(rows), memory.put(lengths)],
        ...[c.D ** -0.5, c.window ?? 0, c.softcap ?? 0, o],
      ]);
      return [memory.floats(o, q.length)] as const;
    },
    ([o], isa) => {
      const error = relativeError(o, want);
      assert.ok(error <= 1e-5, `${isa} ${JSON.stringify({ ...c, tokens: N })}: differs by ${error}`);
    },
  );
}

const sequence = (row: number, from: number, n: number) =>
  Array.from({ length: n }, (_, i) => [row, from + i + 1] as const);

test("decoding: one token a sequence, shared keys, odd head sizes, split keys", () => {
  check({ H: 4, Hkv: 2, D: 16, B: 1, maxLength: 40, tokens: [[0, 33]] });
  check({ H: 9, Hkv: 3, D: 64, B: 1, maxLength: 1500, tokens: [[0, 1403]] });
  check({
    H: 5,
    Hkv: 5,
    D: 7,
    B: 2,
    maxLength: 300,
    tokens: [
      [1, 299],
      [0, 1],
    ],
  });
  check({
    H: 3,
    Hkv: 1,
    D: 40,
    B: 3,
    maxLength: 400,
    tokens: [
      [2, 400],
      [0, 130],
      [1, 17],
    ],
    window: 100,
  });
  check({
    H: 4,
    Hkv: 1,
    D: 257,
    B: 2,
    maxLength: 280,
    tokens: [
      [0, 270],
      [1, 9],
    ],
    softcap: 2,
  });
  check({ H: 2, Hkv: 2, D: 24, B: 1, maxLength: 600, tokens: [[0, 520]], softcap: 5, window: 300 });
});

test("many sequences at once, more tokens than sequences, prompts", () => {
  const next = randomSource(5);
  const tokens = Array.from({ length: 40 }, (_, i) => [i % 40, 1 + Math.floor((next() + 1) * 30)] as const);
  check({ H: 2, Hkv: 1, D: 16, B: 40, maxLength: 64, tokens });
  const mixed = [
    ...sequence(1, 0, 90),
    [0, 50] as const,
    ...sequence(2, 10, 3),
    [3, 7] as const,
    ...sequence(0, 51, 20),
  ];
  check({ H: 6, Hkv: 2, D: 16, B: 4, maxLength: 100, tokens: mixed });
  check({ H: 2, Hkv: 1, D: 24, B: 4, maxLength: 100, tokens: mixed, window: 13, softcap: 1 });
});

test("a token without a sequence or without keys gets 0; lengths are cut at the cache's", () => {
  const tokens = [[-1, 5], [0, 0], [0, -3], [1, 1000], ...sequence(-1, 0, 6), ...sequence(1, 29, 5)] as const;
  check({ H: 2, Hkv: 1, D: 16, B: 2, maxLength: 30, tokens });
});

test("kv_write stores rows at their slots and skips those outside the cache", () => {
  const x = randomFloats(5 * 3, 1);
  const cache = randomFloats(4 * 3, 2);
  const want = Float32Array.from(cache);
  want.set(x.subarray(0, 3), 6);
  want.set(x.subarray(9, 12), 0);
  everywhere(
    (memory, rt) => {
      const at = memory.put(cache);
      runKernel(rt, "kv_write", [5, 3, memory.put(x), memory.put(Int32Array.of(2, -1, 4, 0, 2_000_000)), 4, at]);
      return [memory.floats(at, 12)] as const;
    },
    ([got], isa) => assert.deepEqual(got, want, isa),
  );
});
