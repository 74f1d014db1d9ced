import assert from "node:assert/strict";
import { test } from "node:test";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../../formats/float16.ts";
import { differentiate } from "../../graph/autodiff.ts";
import { Graph, type Value } from "../../graph/graph.ts";
import { plan } from "../../graph/plan.ts";
import { attention } from "../../ops/attention.ts";
import { cast } from "../../ops/cast.ts";
import { constantOp, mul } from "../../ops/elementwise.ts";
import { sum } from "../../ops/reduce.ts";
import { randomFloats, relativeError } from "../../testing/kernels.ts";
import { interpret } from "../../testing/reference.ts";
import type { Backend } from "../backend.ts";
import { type AttentionShape, attentionReference, sequencesOf } from "./attention.test.support.ts";
import { gpu, skipBf16, skipOf } from "./gpu.test.support.ts";

// These are tests of the kernels here.
process.env.UNSLOTH_CUDNN = "0";

type Half = "bf16" | "f16";
const TOLERANCE: Record<Half, number> = { bf16: 1.5e-2, f16: 2e-3 };

/** Lengths around the tiles' 16, 32, 64 and 128 rows; 475 tokens, no multiple of any. */
const LENGTHS = [150, 1, 97, 64, 65, 33, 65];

function rounded(n: number, seed: number, dtype: Half): Float32Array {
  const [values, halves] = [randomFloats(n, seed), new Uint16Array(n)];
  const [narrow, widen] = dtype === "f16" ? [f32ToF16, f16ToF32] : [f32ToBf16, bf16ToF32];
  narrow(values, halves);
  widen(halves, values);
  return values;
}

/** A graph of attention's output and its gradients for sum(o·dout). */
function build(graph: Graph, tokens: number, shape: AttentionShape, dtype: Half | "f32"): Value {
  const widths = { q: shape.heads, k: shape.kvHeads, v: shape.kvHeads, dout: shape.heads };
  const inputs = Object.fromEntries(
    Object.entries(widths).map(([name, n]) => [name, graph.input(name, "f32", [tokens, n * shape.headDim])]),
  ) as Record<string, Value>;
  const [q, k, v] = ["q", "k", "v"].map((name) => (dtype === "f32" ? inputs[name]! : cast(inputs[name]!, dtype)));
  const sequences = {
    seqStart: graph.input("seqStart", "i32", [tokens]),
    seqEnd: graph.input("seqEnd", "i32", [tokens]),
  };
  const o = cast(attention(q!, k!, v!, sequences, shape), "f32");
  graph.output("o", o);
  const loss = sum(mul(o, inputs.dout!));
  const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
  const targets = ["q", "k", "v"].map((name) => ({ value: inputs[name]! }));
  differentiate(graph, loss, targets, one).forEach((gradient, i) => graph.output(`d${"qkv"[i]}`, gradient!));
  return o;
}

function dataOf(tokens: number, { heads, kvHeads, headDim }: AttentionShape, dtype: Half) {
  const of = (n: number, seed: number): Float32Array => rounded(tokens * n * headDim, seed, dtype);
  return { q: of(heads, 1), k: of(kvHeads, 2), v: of(kvHeads, 3), dout: of(heads, 4) };
}

/** Runs twice; both must give the same bytes. */
async function compute(backend: Backend, lengths: readonly number[], shape: AttentionShape, dtype: Half) {
  const graph = new Graph();
  const sequences = sequencesOf(lengths);
  const tokens = sequences.seqStart.length;
  const inputs = { ...dataOf(tokens, shape, dtype), ...sequences };
  build(graph, tokens, shape, dtype);
  const program = plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates });
  const executable = backend.compile(program);
  const first = await executable.execute(inputs);
  const second = await executable.execute(inputs);
  executable.dispose();
  for (const [name, values] of Object.entries(first)) assert.deepEqual(second[name], values, `${name} of a second run`);
  return { got: first, inputs };
}

async function check(lengths: readonly number[], shape: AttentionShape, dtype: Half): Promise<void> {
  const backend = gpu(dtype);
  backend.poison = true;
  const { got, inputs } = await compute(backend, lengths, shape, dtype);
  const want = attentionReference(inputs, inputs, shape);
  for (const [name, values] of Object.entries(want)) {
    const error = relativeError(got[name]!, values);
    assert.ok(error <= TOLERANCE[dtype], `${name}: relative error ${error}`);
  }
}

const plain = { scale: 0.1, window: 0, softcap: 0, causal: true };
const CASES: Readonly<Record<string, Omit<AttentionShape, "headDim">>> = {
  "causal, a key head for each head": { ...plain, heads: 2, kvHeads: 2 },
  "causal in a window, a key head for 4": { ...plain, heads: 4, kvHeads: 1, window: 50 },
  "both directions, a key head for 8": { ...plain, heads: 8, kvHeads: 1, causal: false },
  "soft-capped in a window, a key head for 4": { ...plain, heads: 4, kvHeads: 1, window: 70, softcap: 5, scale: 0.5 },
};
const CAPPED = [64, 128, 256];

for (const dtype of ["bf16", "f16"] as const) {
  for (const headDim of [64, 80, 96, 112, 128, 160, 192, 256]) {
    for (const [label, options] of Object.entries(CASES)) {
      if (options.softcap > 0 && !CAPPED.includes(headDim)) continue; // a module each, and the same code
      test(
        `attention and its gradients equal float64's: heads of ${headDim}, ${label} (CUDA, ${dtype})`,
        { skip: skipOf(dtype) },
        () => check(LENGTHS, { ...options, headDim }, dtype),
      );
    }
  }
}

test("a sequence much longer than a block, and one token after it (CUDA, bf16)", { skip: skipBf16 }, () =>
  check([1030, 1], { ...plain, heads: 2, kvHeads: 1, headDim: 128 }, "bf16"),
);

test("the float64 gradients are those of the float64 reference's output", () => {
  const shape = { ...plain, heads: 2, kvHeads: 1, headDim: 16, window: 4, softcap: 1.5, scale: 0.7 };
  const sequences = sequencesOf([5, 1, 3]);
  const data = dataOf(9, shape, "f16");
  const graph = new Graph();
  const o = build(graph, 9, shape, "f32");
  const output = (given: typeof data): Float64Array => {
    const values = new Map(
      [...graph.inputs.values()].map((value) => [value, { ...given, ...sequences }[value.name as "q"]]),
    );
    return interpret(graph, values, [o])[0]!;
  };
  const want = attentionReference(data, sequences, shape);
  assert.ok(relativeError(output(data), want.o) <= 1e-12);
  for (const name of ["q", "k", "v"] as const) {
    const step = 1e-4;
    const numeric = data[name].map((x, i) => {
      const [above, below] = [1, -1].map((sign) => {
        const moved = Float64Array.from(data[name]);
        moved[i] = x + sign * step;
        const y = output({ ...data, [name]: moved as unknown as Float32Array });
        return y.reduce((total, each, j) => total + each * data.dout[j]!, 0);
      });
      return (above! - below!) / (2 * step);
    });
    assert.ok(relativeError(numeric, want[`d${name}`]) <= 1e-5, name);
  }
});
