/** The op conformance suite: small functions whose values and derivatives every backend must agree on with float64. */
import assert from "node:assert/strict";
import type { Backend } from "../backends/backend.ts";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../formats/float16.ts";
import { differentiate } from "../graph/autodiff.ts";
import { Graph, type Value } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import type { FloatDType } from "../graph/types.ts";
import { add } from "../ops/add.ts";
import { attention } from "../ops/attention.ts";
import { cast } from "../ops/cast.ts";
import { crossEntropy, linearCrossEntropy } from "../ops/cross-entropy.ts";
import { binary, constantOp, mul, type UnaryKind, unary } from "../ops/elementwise.ts";
import { embedding, selectRows } from "../ops/embedding.ts";
import { glu } from "../ops/glu.ts";
import { linearLogProbs, logProbs } from "../ops/log-probs.ts";
import { linear, matmul } from "../ops/matmul.ts";
import { rmsNorm } from "../ops/norm.ts";
import { mean, meanRows, sum, sumRows } from "../ops/reduce.ts";
import { rope } from "../ops/rope.ts";
import { segmentSum, takeFrom } from "../ops/segment.ts";
import { logSoftmax } from "../ops/softmax.ts";
import { randomFloats, relativeError } from "./kernels.ts";
import { interpret, numericGradient } from "./reference.ts";

/** A small function of f32 inputs (differentiated) and i32 inputs (not). */
export interface OpCase {
  readonly floats: Record<string, number[]>;
  readonly ints?: Record<string, Int32Array>;
  /** Inputs are drawn from [low, high). */
  readonly range?: readonly [number, number];
  /** Largest relative error; 1e-5 unless the function itself amplifies rounding. */
  readonly tolerance?: number;
  /** Inputs that are f32 whatever the activations are: norm weights, biases, tables, a loss's scale. */
  readonly weights?: readonly string[];
  build(v: Record<string, Value>): Value;
}

const seqStart = Int32Array.of(0, 0, 0, 3, 3, 3, 3);
const seqEnd = Int32Array.of(3, 3, 3, 7, 7, 7, 7);
const attend = (options: object) => ({
  floats: { q: [7, 4 * 6], k: [7, 2 * 6], v: [7, 2 * 6] },
  ints: { seqStart, seqEnd },
  build: (v: Record<string, Value>) =>
    attention(
      v.q!,
      v.k!,
      v.v!,
      { seqStart: v.seqStart!, seqEnd: v.seqEnd! },
      { heads: 4, kvHeads: 2, headDim: 6, ...options },
    ),
});
const labels = Int32Array.of(4, -100, 0, 10, 2);
const smooth: UnaryKind[] = ["neg", "exp", "sigmoid", "logSigmoid", "tanh", "square", "silu", "geluTanh", "gelu"];

/** Every differentiable op, by what is done with it. */
export const OP_CASES: Readonly<Record<string, OpCase>> = {
  "matmul NN": { floats: { a: [3, 5], b: [5, 7] }, build: (v) => matmul(v.a!, v.b!, { alpha: 0.5 }) },
  "matmul NT with acc and bias": {
    floats: { a: [3, 5], b: [7, 5], acc: [3, 7], bias: [7] },
    weights: ["bias"],
    build: (v) => matmul(v.a!, v.b!, { transB: true, acc: v.acc!, bias: v.bias! }),
  },
  "matmul kept in f32": {
    floats: { a: [3, 5], b: [7, 5] },
    build: (v) => matmul(v.a!, v.b!, { transB: true, dtype: "f32" }),
  },
  "matmul TN": { floats: { a: [5, 3], b: [5, 7] }, build: (v) => matmul(v.a!, v.b!, { transA: true }) },
  "matmul TT": { floats: { a: [5, 3], b: [7, 5] }, build: (v) => matmul(v.a!, v.b!, { transA: true, transB: true }) },
  "LoRA on a linear layer (folded)": {
    floats: { x: [4, 9], w: [11, 9], a: [3, 9], b: [11, 3], bias: [11], residual: [4, 11] },
    weights: ["w", "a", "b", "bias"],
    build: (v) =>
      matmul(linear(v.x!, v.a!), v.b!, { transB: true, alpha: 2, acc: linear(v.x!, v.w!, v.bias!, v.residual!) }),
  },
  "two layers that share an input": {
    floats: { x: [4, 9], w: [6, 9], u: [6, 9] },
    build: (v) => mul(linear(v.x!, v.w!), linear(v.x!, v.u!)),
  },
  "add, one operand twice": { floats: { a: [3, 4] }, build: (v) => add(v.a!, v.a!) },
  embedding: {
    floats: { table: [6, 5] },
    weights: ["table"],
    ints: { ids: Int32Array.of(1, 3, 3, 0) },
    build: (v) => embedding(v.table!, v.ids!, { scale: 1.5 }),
  },
  "embedding, transposed": {
    floats: { table: [5, 6] },
    weights: ["table"],
    ints: { ids: Int32Array.of(1, 3, 3, 0) },
    build: (v) => embedding(v.table!, v.ids!, { transposed: true }),
  },
  "select rows": {
    floats: { x: [4, 5] },
    ints: { rows: Int32Array.of(2, -1, 2, 0) },
    build: (v) => selectRows(v.x!, v.rows!),
  },
  "RMS norm": { floats: { x: [4, 9], w: [9] }, weights: ["w"], build: (v) => rmsNorm(v.x!, v.w!, { eps: 1e-5 }) },
  "RMS norm, Gemma's, plus residual": {
    floats: { x: [4, 9], w: [9], residual: [4, 9] },
    weights: ["w"],
    build: (v) => rmsNorm(v.x!, v.w!, { eps: 1e-6, offset: 1, residual: v.residual! }),
  },
  "RMS norm of heads": {
    floats: { x: [3, 4 * 6], w: [6] },
    weights: ["w"],
    build: (v) => rmsNorm(v.x!, v.w!, { eps: 1e-6 }),
  },
  rope: {
    floats: { x: [5, 2 * 6], table: [8, 6] },
    weights: ["table"],
    ints: { positions: Int32Array.of(0, 1, 7, 2, 3) },
    build: (v) => rope(v.x!, detached(v.table!), v.positions!, { heads: 2, headDim: 6 }),
  },
  "attention, causal": attend({}),
  "attention, both directions": attend({ causal: false }),
  "attention, window and soft-cap": attend({ window: 2, softcap: 1.5, scale: 0.9 }),
  SwiGLU: { floats: { g: [3, 11], u: [3, 11] }, range: [-3, 3], build: (v) => glu(v.g!, v.u!, "silu") },
  "GeGLU, tanh": { floats: { g: [3, 11], u: [3, 11] }, range: [-3, 3], build: (v) => glu(v.g!, v.u!, "geluTanh") },
  "GeGLU, erf": { floats: { g: [3, 11], u: [3, 11] }, range: [-3, 3], build: (v) => glu(v.g!, v.u!, "gelu") },
  "linear cross-entropy": {
    floats: { h: [5, 6], w: [11, 6], bias: [11], lossScale: [1] },
    weights: ["w", "bias", "lossScale"],
    ints: { labels },
    range: [0.2, 1.4],
    build: (v) =>
      linearCrossEntropy(
        v.h!,
        { weight: v.w!, bias: v.bias! },
        { labels: v.labels!, lossScale: detached(v.lossScale!) },
      ).loss,
  },
  "linear cross-entropy, soft-capped, smoothed, as part of a loss": {
    floats: { h: [5, 6], w: [11, 6], lossScale: [1] },
    weights: ["w", "lossScale"],
    ints: { labels },
    build: (v) => {
      const options = { labels: v.labels!, lossScale: detached(v.lossScale!), softcap: 2, labelSmoothing: 0.1 };
      return unary("square", linearCrossEntropy(v.h!, { weight: v.w! }, options).loss);
    },
  },
  "log-probabilities of a head, summed by sequence": {
    floats: { h: [5, 6], w: [11, 6], bias: [11], each: [5] },
    weights: ["w", "bias", "each"],
    ints: { labels, segments: Int32Array.of(1, 0, 1, 0, -1), order: Int32Array.of(1, -1, 0, 1) },
    build: (v) => {
      const { logps } = linearLogProbs(v.h!, { weight: v.w!, bias: v.bias! }, { labels: v.labels!, temperature: 0.7 });
      return unary("square", takeFrom(segmentSum(mul(logps, v.each!), v.segments!, 3), v.order!));
    },
  },
  "log-probabilities of a soft-capped head": {
    floats: { h: [5, 6], w: [11, 6] },
    weights: ["w"],
    ints: { labels },
    build: (v) => linearLogProbs(v.h!, { weight: v.w! }, { labels: v.labels!, softcap: 2, temperature: 1.5 }).logps,
  },
  "log-probabilities of logits": {
    floats: { logits: [5, 11], each: [5] },
    weights: ["each"],
    ints: { labels },
    range: [-2, 2],
    build: (v) => mul(logProbs(v.logits!, { labels: v.labels!, softcap: 3, temperature: 0.7 }).logps, v.each!),
  },
  "log-softmax at a temperature": {
    floats: { logits: [5, 11], each: [5, 11] },
    range: [-2, 2],
    build: (v) => mul(logSoftmax(v.logits!, 1.7), v.each!),
  },
  "cross-entropy of logits": {
    floats: { logits: [5, 11], lossScale: [1] },
    weights: ["lossScale"],
    ints: { labels },
    range: [-2, 2],
    build: (v) =>
      crossEntropy(v.logits!, { labels: v.labels!, lossScale: detached(v.lossScale!), softcap: 3, labelSmoothing: 0.1 })
        .loss,
  },
  "sum and mean": { floats: { x: [3, 5] }, build: (v) => mul(sum(v.x!), mean(v.x!)) },
  "row sums and means": { floats: { x: [3, 5] }, build: (v) => mul(sumRows(v.x!), meanRows(v.x!)) },
  ...Object.fromEntries(
    smooth.map((kind) => [
      kind,
      { floats: { x: [3, 7] }, range: [-2, 2] as const, build: (v: Record<string, Value>) => unary(kind, v.x!) },
    ]),
  ),
  ...Object.fromEntries(
    (["log", "sqrt", "reciprocal", "rsqrt"] as UnaryKind[]).map((kind) => [
      kind,
      { floats: { x: [3, 7] }, range: [0.5, 2] as const, build: (v: Record<string, Value>) => unary(kind, v.x!) },
    ]),
  ),
  log1mexp: { floats: { x: [3, 7] }, range: [-3, -0.1], build: (v) => unary("log1mexp", v.x!) },
  "kinked functions, away from their kinks": {
    floats: { x: [3, 7] },
    range: [0.1, 0.4],
    build: (v) =>
      add(add(unary("relu", v.x!), unary("abs", v.x!)), add(unary("atLeast", v.x!, 0.5), unary("atMost", v.x!, 0.05))),
  },
  "soft-cap": { floats: { x: [3, 7] }, range: [-3, 3], build: (v) => unary("softcap", v.x!, 1.7) },
  "arithmetic with a row, a column and a number": {
    floats: { x: [3, 5], row: [5], column: [3], one: [1] },
    weights: ["column", "one"],
    range: [0.5, 2],
    build: (v) =>
      binary(
        "div",
        binary("mul", binary("add", v.x!, v.row!), v.column!),
        binary("sub", v.one!, binary("mul", v.x!, v.x!)),
      ),
    tolerance: 1e-4, // the denominator passes near 0
  },
  "maximum and minimum": {
    floats: { x: [3, 5], y: [3, 5] },
    weights: ["y"], // rounded to bf16, two of them would tie
    build: (v) => add(binary("max", v.x!, v.y!), binary("min", v.x!, v.y!)),
  },
};

/** Marks an input that a case needs but does not differentiate. */
const constants = new Set<Value>();
function detached(value: Value): Value {
  constants.add(value);
  return value;
}

/** Largest relative error in a type of activations, unless the case says otherwise. */
const TOLERANCE: Record<FloatDType, number> = { f32: 1e-5, f16: 4e-3, bf16: 3e-2 };

/**
 * Assert that a case's value and gradients on a backend equal float64's. `dtype` is the type of its activations: what the
 * case names `activations` is rounded to it on the way in, all else stays f32.
 */
export async function checkOpCase(backend: Backend, spec: OpCase, dtype: FloatDType = "f32"): Promise<void> {
  const graph = new Graph();
  const given = new Map<Value, ArrayLike<number>>();
  const host: Record<string, Float32Array | Int32Array> = {};
  const inputs: Record<string, Value> = {};
  const [low, high] = spec.range ?? [-1, 1];
  let seed = 1;
  for (const [key, shape] of Object.entries(spec.floats)) {
    const n = shape.reduce((a, b) => a * b, 1);
    host[key] = randomFloats(n, seed++).map((x) => low + ((x + 1) / 2) * (high - low));
    inputs[key] = graph.input(key, "f32", shape);
  }
  // The reference sees what the activations are rounded to: a rounded input may tie with another, or cross a kink.
  const rounded = (key: string): boolean => dtype !== "f32" && key in spec.floats && !spec.weights?.includes(key);
  for (const [key, data] of Object.entries(host)) {
    if (!rounded(key)) continue;
    const halves = new Uint16Array(data.length);
    const [narrow, widen] = dtype === "f16" ? [f32ToF16, f16ToF32] : [f32ToBf16, bf16ToF32];
    narrow(data as Float32Array, halves);
    widen(halves, data as Float32Array);
  }
  for (const [key, data] of Object.entries(spec.ints ?? {})) {
    host[key] = data;
    inputs[key] = graph.input(key, "i32", [data.length]);
  }
  const values = Object.fromEntries(
    Object.entries(inputs).map(([key, value]) => [key, rounded(key) ? cast(value, dtype) : value]),
  );
  const y = cast(spec.build(values), "f32");
  const weights = graph.input("weights", "f32", y.shape);
  host.weights = randomFloats(
    y.shape.reduce((a, b) => a * b, 1),
    99,
  );
  for (const [key, data] of Object.entries(host)) given.set(graph.inputs.get(key)!, data);
  const loss = sum(mul(y, weights));
  const targets = Object.keys(spec.floats)
    .map((key) => inputs[key]!)
    .filter((value) => !constants.has(values[value.name]!));
  const expected = interpret(graph, given, [y, loss]);
  const slopes = targets.map((target) => numericGradient(graph, given, loss, target));

  graph.output("y", y);
  const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
  const gradients = differentiate(
    graph,
    loss,
    targets.map((value) => ({ value })),
    one,
  );
  gradients.forEach((gradient, i) => graph.output(`d${targets[i]!.name}`, gradient!));
  const program = plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates });
  const executable = backend.compile(program);
  // A case that amplifies rounding does so in every type.
  const tolerance = TOLERANCE[dtype] * ((spec.tolerance ?? TOLERANCE.f32) / TOLERANCE.f32);
  try {
    // Twice: a backend may record the first run and replay it.
    for (const run of [1, 2]) {
      const got = await executable.execute(host);
      const error = relativeError(got.y!, expected[0]!);
      assert.ok(error <= tolerance, `y, run ${run}: relative error ${error}`);
      targets.forEach((target, i) => {
        const slope = relativeError(got[`d${target.name}`]!, slopes[i]!);
        assert.ok(slope <= tolerance, `gradient of ${target.name}, run ${run}: relative error ${slope}`);
      });
    }
  } finally {
    executable.dispose();
  }
}
