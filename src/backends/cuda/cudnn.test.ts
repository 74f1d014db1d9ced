import assert from "node:assert/strict";
import { test } from "node:test";
import { collate } from "../../data/collate.ts";
import { differentiate } from "../../graph/autodiff.ts";
import { Graph, type Value } from "../../graph/graph.ts";
import { plan } from "../../graph/plan.ts";
import type { FloatDType } from "../../graph/types.ts";
import { attention } from "../../ops/attention.ts";
import { cast } from "../../ops/cast.ts";
import { constantOp, mul } from "../../ops/elementwise.ts";
import { sum } from "../../ops/reduce.ts";
import { randomFloats, relativeError } from "../../testing/kernels.ts";
import type { Backend, Executable } from "../backend.ts";
import { openCpuBackend } from "../cpu/backend.ts";
import { cudnnAttention, cudnnNotes } from "./cudnn-attention.ts";
import { type OperationGraph, type SdpaShape, sdpaBackward, sdpaForward, UID } from "./cudnn-graph.ts";
import { gpu, skipBf16 as noGpu } from "./gpu.test.support.ts";

const skip =
  noGpu || (cudnnAttention(gpu("bf16").device) ? false : `no cuDNN: ${cudnnNotes()[0] ?? "not found, or off"}`);

const SHAPE: SdpaShape = {
  dtype: "bf16",
  batch: 3,
  length: 256,
  ragged: true,
  heads: 4,
  kvHeads: 2,
  headDim: 64,
  tokens: 700,
  queryWidth: 512,
  keyWidth: 256,
};

/** Tensors that something other than the graph writes, and those that its operations write. */
function check(graph: OperationGraph): { given: Set<number>; made: Set<number> } {
  const known = new Map(graph.tensors.map((tensor) => [tensor.uid, tensor]));
  assert.equal(known.size, graph.tensors.length, "uids are unique");
  const made = new Set<number>();
  const given = new Set<number>();
  for (const op of graph.ops) {
    const {
      kind,
      mode: _mode,
      type: _type,
      axis: _axis,
      ...sides
    } = { mode: "", type: "", axis: 0, ...op } as Record<string, unknown>;
    const out = kind === "matmul" ? "c" : "y";
    for (const [side, uid] of Object.entries(sides) as [string, number][]) {
      assert.ok(known.has(uid), `${kind}: ${side} is a tensor`);
      if (side !== out && !made.has(uid)) given.add(uid);
    }
    assert.ok(!made.has(sides[out] as number), "each tensor is written once");
    made.add(sides[out] as number);
  }
  for (const { uid, virtual } of graph.tensors) if (virtual) assert.ok(made.has(uid) && !given.has(uid));
  return { given, made: new Set([...made].filter((uid) => !known.get(uid)!.virtual)) };
}

test("cuDNN's forward graph reads q, k, v and writes o and lse", () => {
  const graph = sdpaForward(SHAPE);
  const { given, made } = check(graph);
  assert.deepEqual(made, new Set([UID.lse, UID.o]));
  for (const uid of [UID.q, UID.k, UID.v, UID.scale, UID.lengths]) assert.ok(given.has(uid));
  const strides = (uid: number) => graph.tensors.find((tensor) => tensor.uid === uid)!.strides;
  assert.deepEqual(strides(UID.q), [256 * 512, 64, 512, 1]);
  assert.deepEqual(strides(UID.k), [256 * 256, 64, 1, 256], "keys are transposed");
  assert.deepEqual(strides(UID.lse), [256, 700, 1, 1], "f32[heads, tokens]");
});

test("cuDNN's backward graph writes dq, dk, dv and its scratch; equal lengths need no arrays of sequences", () => {
  const { made } = check(sdpaBackward(SHAPE));
  assert.deepEqual(made, new Set([UID.delta, UID.dv, UID.dk, UID.dq]));
  const graph = sdpaBackward({ ...SHAPE, ragged: false, tokens: 768, kvHeads: 4, keyWidth: 512 });
  check(graph);
  assert.ok(!graph.tensors.some(({ uid, ragged }) => uid === UID.lengths || ragged !== undefined));
});

interface Heads {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Attention and its gradients over `tokens` tokens, as one program, run with several packings. */
function attending(backend: Backend, dtype: FloatDType, tokens: number, shape: Heads) {
  const widths = { q: shape.heads, k: shape.kvHeads, v: shape.kvHeads, w: shape.heads };
  const names = Object.keys(widths) as (keyof typeof widths)[];
  const graph = new Graph();
  const inputs = Object.fromEntries(
    names.map((name) => [name, graph.input(name, "f32", [tokens, widths[name] * shape.headDim])]),
  ) as Record<string, Value>;
  const [q, k, v] = ["q", "k", "v"].map((name) => cast(inputs[name]!, dtype));
  const [seqStart, seqEnd] = ["seqStart", "seqEnd"].map((name) => graph.input(name, "i32", [tokens]));
  const o = cast(attention(q!, k!, v!, { seqStart: seqStart!, seqEnd: seqEnd! }, shape), "f32");
  graph.output("o", o);
  const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
  const targets = ["q", "k", "v"].map((name) => ({ value: inputs[name]! }));
  differentiate(graph, sum(mul(o, inputs.w!)), targets, one).forEach((gradient, i) =>
    graph.output(`d${"qkv"[i]}`, gradient!),
  );
  const executable: Executable = backend.compile(
    plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }),
  );
  const data = Object.fromEntries(
    names.map((name, i) => [name, randomFloats(tokens * widths[name] * shape.headDim, 10 + i)]),
  );
  return {
    run: (lengths: readonly number[]) => {
      const rows = lengths.map((n) => [{ inputIds: new Int32Array(n), labels: new Int32Array(n) }]);
      const packed = collate(rows, tokens);
      return executable.execute({ ...data, seqStart: packed.seqStart, seqEnd: packed.seqEnd });
    },
    dispose: () => executable.dispose(),
  };
}

const PACKINGS: readonly (readonly number[])[] = [
  [256, 256, 256],
  [300, 1, 20, 7, 250, 100],
  [768],
  [3, 5, 2, 129, 128, 127, 200],
  [384, 384],
  // Forward by cuDNN, backward by own kernels.
  [500, ...Array<number>(20).fill(13)],
];

for (const shape of [
  { heads: 8, kvHeads: 2, headDim: 128 },
  { heads: 4, kvHeads: 4, headDim: 64 },
  { heads: 6, kvHeads: 2, headDim: 80 },
]) {
  const { heads, kvHeads, headDim } = shape;
  test(`attention by cuDNN, ${heads} heads of ${headDim} over ${kvHeads}, packed in any way (CUDA)`, {
    skip,
  }, async () => {
    using cpu = await openCpuBackend({ threads: 4 });
    const before = cudnnNotes().length;
    const backend = gpu("bf16");
    backend.poison = true;
    const [want, got] = [attending(cpu, "f32", 768, shape), attending(backend, "bf16", 768, shape)];
    for (const lengths of PACKINGS) {
      const expected = await want.run(lengths);
      const first = await got.run(lengths);
      for (const [name, values] of Object.entries(expected)) {
        const error = relativeError(first[name]!, values);
        assert.ok(error <= 2e-2, `${name} of [${lengths}]: relative error ${error}`);
      }
      // The second run records, the third replays.
      for (let run = 0; run < 3; run++) assert.deepEqual(await got.run(lengths), first, `[${lengths}], run ${run + 2}`);
    }
    assert.deepEqual(await got.run(PACKINGS[1]!), await got.run(PACKINGS[1]!), "classes change places");
    assert.deepEqual(cudnnNotes().slice(before), [], "every plan was made");
    for (const { dispose } of [want, got]) dispose();
  });
}
