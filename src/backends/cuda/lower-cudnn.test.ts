import assert from "node:assert/strict";
import { test } from "node:test";
import { collate } from "../../data/collate.ts";
import { Graph, type Node } from "../../graph/graph.ts";
import { attentionGradOp, attentionOp } from "../../ops/attention.ts";
import type { CudnnAttention } from "./cudnn-attention.ts";
import { type OperationGraph, type SdpaShape, UID } from "./cudnn-graph.ts";
import type { Launch } from "./device.ts";
import { moduleSource } from "./kernels.ts";
import { attentionByCudnn, attentionGradByCudnn, type Packed } from "./lower-cudnn.ts";
import type { Lowering } from "./lowering.ts";
import { compileCached, Nvrtc } from "./nvrtc.ts";
import { packingOf } from "./packing.ts";

const HEADS = { heads: 8, kvHeads: 4, headDim: 64, scale: 0.125, window: 0, softcap: 0, causal: true };

/** Attention and its gradients over sequences of these lengths, lowered by a library that records what it is asked. */
function lowered(lengths: readonly number[], tokens: number, changes: object = {}, plans = true) {
  const graph = new Graph();
  const attrs = { ...HEADS, ...changes };
  const width = (heads: number): [number, number] => [tokens, heads * attrs.headDim];
  const [q, k, v] = [attrs.heads, attrs.kvHeads, attrs.kvHeads].map((heads, i) =>
    graph.input("qkv"[i]!, "bf16", width(heads)),
  );
  const [seqStart, seqEnd] = ["seqStart", "seqEnd"].map((name) => graph.input(name, "i32", [tokens]));
  const [o, lse] = graph.apply(attentionOp, [q!, k!, v!, seqStart!, seqEnd!], attrs);
  const dout = graph.input("do", "bf16", width(attrs.heads));
  const inputs = [q!, k!, v!, seqStart!, seqEnd!, o!, lse!, dout];
  const [dq] = graph.apply(attentionGradOp, inputs, attrs);
  const rows = lengths.map((n) => [{ inputIds: new Int32Array(n), labels: new Int32Array(n) }]);
  const batch = collate(rows, tokens);
  const packing = packingOf(batch.seqStart, batch.seqEnd);
  const asked: { name: string; shape: SdpaShape }[] = [];
  const runs: ReadonlyMap<number, number | bigint>[] = [];
  const launches: Launch[] = [];
  const scratch: number[] = [];
  const attention = {
    cudnn: { execute: (_plan: unknown, pointers: ReadonlyMap<number, number | bigint>) => runs.push(pointers) },
    arrays: { lengths: 7, starts: (rowWidth: number) => 1e6 + rowWidth },
    number: (value: number) => (value === Number.NEGATIVE_INFINITY ? 99n : 11n),
    plan(name: string, shape: SdpaShape, graphOf: (shape: SdpaShape) => OperationGraph) {
      asked.push({ name, shape });
      if (!plans) return null;
      const uids = graphOf(shape).tensors.filter((tensor) => !tensor.virtual);
      return { descriptor: 0n, workspaceBytes: 0, uids: uids.map(({ uid }) => uid) };
    },
  } as unknown as CudnnAttention;
  const addresses = new Map(
    [...inputs, ...graph.nodes.flatMap(({ outputs }) => outputs)].map((x, i) => [x, 2 ** 32 * (i + 1)]),
  );
  const to = (packed: Packed | "any" | null) =>
    ({
      address: (value: never) => addresses.get(value) ?? 0,
      scratch: (bytes: number) => scratch.push(bytes),
      launch: (launch: Launch) => launches.push(launch),
      cudnn: { attention, packed, enqueue: (run: () => void) => run() },
    }) as unknown as Lowering;
  const node = (name: string): Node => graph.nodes.find(({ op }) => op.name === name)!;
  const run = (packed: Packed | "any" | null) => [
    attentionByCudnn(node("attention"), to(packed)),
    attentionGradByCudnn(node("attention_grad"), to(packed)),
  ];
  const packed = packing && { seqStart: seqStart!, seqEnd: seqEnd!, packing };
  return { run, packed, asked, runs, launches, scratch, at: addresses, q: q!, dq: dq!, lse: lse! };
}

test("equal sequences: one dense run each way, nothing besides", () => {
  const { run, packed, asked, runs, launches } = lowered([512, 512], 1024);
  assert.deepEqual(run(packed), [true, true]);
  assert.deepEqual(
    asked.map(({ name, shape }) => [name, shape.ragged, shape.batch, shape.length, shape.kvHeads]),
    [
      ["forward", false, 2, 512, 4],
      ["backward", false, 2, 512, 4],
    ],
  );
  assert.equal(runs.length, 2);
  assert.equal(launches.length, 0);
  for (const pointers of runs) for (const [uid, at] of pointers) assert.ok(at, `tensor ${uid} has an address`);
});

test("sequences of any length: arrays of where they are, and a kernel for those of one token", () => {
  const { run, packed, runs, launches } = lowered([300, 1, 100], 512);
  assert.deepEqual(run(packed), [true, true]);
  for (const pointers of runs) {
    assert.equal(pointers.get(UID.lengths), 7);
    assert.deepEqual(
      [UID.queryStarts, UID.keyStarts, UID.tokenStarts].map((uid) => pointers.get(uid)),
      [1e6 + 512, 1e6 + 256, 1e6 + 1],
    );
    assert.equal(pointers.get(UID.minusInfinity), 99n);
  }
  assert.deepEqual(
    launches.map(({ kernel }) => kernel),
    ["attention_single", "attention_single_grad"],
  );
});

test("where gradients need more memory than there is, heads go in parts, each where its rows are", () => {
  const { run, packed, asked, runs, scratch, at, q, dq, lse } = lowered([8192], 8192);
  assert.deepEqual(run(packed), [true, true]);
  assert.equal(asked[1]!.shape.kvHeads, 2);
  assert.equal(asked[1]!.shape.heads, 4);
  assert.ok(scratch[1]! <= 2 ** 30);
  const [, first, second] = runs;
  assert.equal(runs.length, 3);
  for (const [uid, value] of [
    [UID.q, q],
    [UID.dq, dq],
  ] as const) {
    assert.equal(first!.get(uid), at.get(value));
    assert.equal(second!.get(uid), at.get(value)! + 2 * 4 * 64, "two bytes an element, four heads on");
  }
  assert.equal(second!.get(UID.lse), at.get(lse)! + 4 * 4 * 8192);
});

test("what the library does not do runs on own kernels", () => {
  const cases: [string, ReturnType<typeof lowered>, boolean, boolean?][] = [
    ["a window that hides something", lowered([512, 512], 1024, { window: 100 }), false],
    ["a window that hides nothing", lowered([512, 512], 1024, { window: 512 }), true],
    ["soft-capped logits", lowered([512, 512], 1024, { softcap: 20 }), false],
    ["both directions", lowered([512, 512], 1024, { causal: false }), false],
    ["heads of 256", lowered([512, 512], 1024, { headDim: 256 }), false],
    ["one long sequence among many short ones", lowered([2000, ...Array(20).fill(100)], 4096), true, false],
    ["one sequence in very many short ones", lowered([2000, ...Array(1000).fill(2)], 4096), false],
    ["gradients of short sequences", lowered([256, 200], 512), true, false],
    ["a shape without a plan", lowered([512, 512], 1024, {}, false), false],
  ];
  for (const [name, { run, packed, runs, launches }, expected, backward = expected] of cases) {
    assert.deepEqual(run(packed), [expected, backward], name);
    if (!expected) assert.deepEqual([runs.length, launches.length], [0, 0], name);
  }
  const { run } = lowered([512, 512], 1024);
  assert.deepEqual(run(null), [false, false], "sequences that are not known");
});

test("gradients that no part of would fit run on own kernels", () => {
  assert.deepEqual(((x) => x.run(x.packed))(lowered([65536], 65536)), [true, false]);
});

test("sizing takes the same memory as running, and asks for no plan", () => {
  const { run, packed, asked, scratch } = lowered([512, 512], 1024);
  assert.deepEqual(run("any"), [false, false]);
  assert.equal(asked.length, 0);
  const sized = scratch.splice(0);
  run(packed);
  assert.deepEqual(scratch, sized);
});

let nvrtc: Nvrtc | null = null;
try {
  nvrtc = new Nvrtc();
} catch {}

test("the kernels of single tokens compile", { skip: nvrtc ? false : "no NVRTC" }, () => {
  for (const [type, arch] of [
    ["bf16", 90],
    ["f16", 90],
  ] as const) {
    const code = compileCached(
      nvrtc!,
      moduleSource("attention_single", { T: type }),
      "attention_single.cu",
      `sm_${arch}`,
      [],
    );
    const text = Buffer.from(code).toString("latin1");
    for (const kernel of ["attention_single", "attention_single_grad"]) assert.ok(text.includes(kernel));
  }
});
