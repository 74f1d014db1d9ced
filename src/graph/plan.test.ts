import assert from "node:assert/strict";
import { test } from "node:test";
import { add } from "../ops/add.ts";
import { constantOp, mul, unary } from "../ops/elementwise.ts";
import { linear, matmul } from "../ops/matmul.ts";
import { adamwOp, clearOp } from "../ops/optimizer.ts";
import { sum } from "../ops/reduce.ts";
import { differentiate } from "./autodiff.ts";
import { drawMemory } from "./draw.ts";
import { Graph, type Value } from "./graph.ts";
import { aligned } from "./liveness.ts";
import { type PlanOptions, plan } from "./plan.ts";
import type { Program } from "./program.ts";
import { MemoryPlanError, type Tensor } from "./types.ts";

const OPTIONS: PlanOptions = {
  workspaceOf: () => 0,
  rates: { flopsPerSecond: 1e11, bytesPerSecond: 1e10, hostBytesPerSecond: null },
};

let ids = 0;
const tensor = (name: string, shape: number[]): Tensor => ({
  id: --ids,
  name,
  dtype: "f32",
  shape,
  bytes: 4 * shape.reduce((a, b) => a * b, 1),
});

/** A stack of layers, each x + silu(x·Wᵀ)·Uᵀ, and the gradients of all weights. */
function stack(layers: number, rows = 64, width = 32): Graph {
  const graph = new Graph();
  let x = graph.input("x", "f32", [rows, width]);
  const weights: Value[] = [];
  for (let i = 0; i < layers; i++) {
    graph.scope(`layers.${i}`, () => {
      graph.boundary(x);
      const w = graph.use(tensor(`w${i}`, [4 * width, width]));
      const u = graph.use(tensor(`u${i}`, [width, 4 * width]));
      weights.push(w, u);
      x = linear(unary("silu", linear(x, w)), u, null, x);
    });
  }
  const loss = sum(mul(x, x));
  graph.output("loss", loss);
  const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
  const gradients = differentiate(
    graph,
    loss,
    weights.map((value) => ({ value })),
    one,
  );
  gradients.forEach((gradient, i) => graph.output(`d${weights[i]!.name}`, gradient!));
  return graph;
}

/** No two blocks that live at the same time may share a byte. */
function assertDisjoint(program: Program): void {
  const blocks = program.liveness.blocks.filter((block) => block.pool === "arena");
  for (const [i, a] of blocks.entries()) {
    const from = program.offsetOf(a);
    assert.ok(from % 256 === 0 && from + a.bytes <= program.arenaBytes);
    for (const b of blocks.slice(i + 1)) {
      if (a.start > b.end || b.start > a.end) continue;
      const other = program.offsetOf(b);
      assert.ok(from + a.bytes <= other || other + b.bytes <= from, `${a.name} and ${b.name} overlap`);
    }
  }
}

test("what lives at the same time never overlaps, under every policy", () => {
  for (const kind of ["keep", "recompute", "minimum"] as const)
    assertDisjoint(plan(stack(4), { ...OPTIONS, policy: { kind } }));
  const all = plan(stack(4), OPTIONS).arenaBytes;
  assertDisjoint(plan(stack(4), { ...OPTIONS, policy: { kind: "budget", bytes: Math.round(all * 0.8) } }));
});

test("a budget is kept to, and the more of it the less is recomputed", () => {
  const all = plan(stack(8), OPTIONS);
  const least = plan(stack(8), { ...OPTIONS, policy: { kind: "minimum" } });
  assert.ok(least.arenaBytes < 0.75 * all.arenaBytes);
  let recomputed = Number.POSITIVE_INFINITY;
  for (let share = 0; share <= 1; share += 0.25) {
    const bytes = Math.ceil(least.arenaBytes + share * (all.arenaBytes - least.arenaBytes));
    const program = plan(stack(8), { ...OPTIONS, policy: { kind: "budget", bytes } });
    assert.ok(program.arenaBytes <= bytes);
    const { count } = program.checkpointing().recomputed;
    assert.ok(count <= recomputed);
    recomputed = count;
  }
  const { kept } = all.checkpointing();
  assert.ok(recomputed < kept.count / 2);
});

test("with all the memory there is, only what costs next to nothing is recomputed", () => {
  const graph = stack(8);
  const seconds = (program: Program): number =>
    program.steps.reduce(
      (sum, node) => sum + Math.max(node.op.cost!(node).flops / 1e11, node.op.cost!(node).bytes / 1e10),
      0,
    );
  const kept = plan(graph, OPTIONS);
  const budget = plan(graph, { ...OPTIONS, policy: { kind: "budget", bytes: 2 ** 40 } });
  assert.ok(seconds(budget) <= 1.02 * seconds(kept));
  assert.ok(budget.arenaBytes <= kept.arenaBytes);
});

test("a budget that cannot be met says what could", () => {
  const least = plan(stack(4), { ...OPTIONS, policy: { kind: "minimum" } }).arenaBytes;
  assert.throws(
    () => plan(stack(4), { ...OPTIONS, policy: { kind: "budget", bytes: 1000 } }),
    (error) => error instanceof MemoryPlanError && error.needed === least && /needs at least/.test(error.message),
  );
});

test("an input that dies is written over, one that lives is not", () => {
  const build = (keep: boolean): Program => {
    const graph = new Graph();
    const y = unary("exp", unary("neg", graph.input("x", "f32", [1000])));
    const z = unary("tanh", y);
    graph.output("z", keep ? add(z, y) : z);
    return plan(graph, OPTIONS);
  };
  assert.equal(build(false).arenaBytes, 2 * aligned(4000));
  assert.equal(build(true).arenaBytes, 3 * aligned(4000));
});

test("a LoRA layer with its residual is three products, the update folded in", () => {
  const graph = new Graph();
  const x = graph.input("x", "f32", [8, 32]);
  const [w, a, b] = [
    graph.use(tensor("w", [32, 32])),
    graph.use(tensor("a", [4, 32])),
    graph.use(tensor("b", [32, 4])),
  ];
  const y = matmul(linear(x, a), b, { transB: true, alpha: 2, acc: linear(x, w, null, x) });
  const loss = sum(y);
  graph.output("loss", loss);
  const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
  const gradients = differentiate(
    graph,
    loss,
    [x, a, b].map((value) => ({ value })),
    one,
  );
  gradients.forEach((gradient, i) => graph.output(`d${i}`, gradient!));
  const program = plan(graph, OPTIONS);
  const count = (phase: string) =>
    program.steps.filter((node) => node.phase === phase && node.op.name === "matmul").length;
  assert.equal(count("forward"), 2);
  // s·dy·B, dB, dA, and dx with both its parts.
  assert.equal(count("backward"), 4);
  assert.equal(program.steps.filter((node) => node.inputs[4]).length, 2);
});

test("what nothing needs is not run", () => {
  const graph = new Graph();
  const x = graph.input("x", "f32", [4]);
  unary("exp", x);
  graph.output("y", unary("neg", x));
  assert.deepEqual(
    plan(graph, OPTIONS).steps.map((node) => node.attrs.kind),
    ["neg"],
  );
});

test("updates happen in place and reading the old content afterwards is an error", () => {
  const graph = new Graph();
  const [p, g, m, v] = ["p", "g", "m", "v"].map((name) => graph.use(tensor(name, [64]), { mutable: true })) as [
    Value,
    Value,
    Value,
    Value,
  ];
  const hyper = graph.input("hyper", "f32", [8]);
  const factor = graph.input("factor", "f32", [1]);
  graph.inPhase("update", () => graph.apply(adamwOp, [p, g, m, v, hyper, factor], { decay: false }));
  graph.inPhase("update", () => graph.apply(clearOp, [g], {}));
  const program = plan(graph, OPTIONS);
  assert.equal(program.steps.length, 2);
  const [updated] = program.steps[0]!.outputs;
  const location = program.locate(updated!);
  assert.ok(location.kind === "tensor" && location.value === p);

  const late = unary("neg", p);
  graph.output("late", late);
  assert.throws(() => plan(graph, OPTIONS), /reads %p:f32\[64\] after it was overwritten/);
});

test("a program prints itself and draws its memory", () => {
  const program = plan(stack(2), { ...OPTIONS, policy: { kind: "recompute" }, name: "two layers" });
  const text = program.print();
  assert.match(text, /^program two layers: \d+ steps, arena \d+\.\d\d MiB/);
  assert.match(text, /# layers\.1\n/);
  assert.match(text, /\(recomputed\)/);
  assert.equal(text.split("\n").filter((line) => /^ *\d+ %/.test(line)).length, program.steps.length);
  const svg = drawMemory(program);
  assert.equal(svg.match(/<title>/g)!.length, program.liveness.blocks.length);
  assert.ok(svg.startsWith("<svg") && svg.endsWith("</svg>") && !svg.includes("NaN"));
});

test("differentiating something the loss does not depend on is an error or null", () => {
  const graph = new Graph();
  const [x, y] = [graph.input("x", "f32", [3]), graph.input("y", "f32", [3])];
  const loss = sum(mul(x, x));
  const one = graph.apply(constantOp, [], { value: 1 })[0]!;
  assert.throws(() => differentiate(graph, loss, [{ value: y }], one), /depends on none of the 1 trained tensors/);
  const [dx, dy] = differentiate(graph, loss, [{ value: x }, { value: y }], one);
  assert.ok(dx && dy === null);
});

test("offloading takes no more host memory than there is: what copying saves least is recomputed, the last boundaries stay", () => {
  const rates = { ...OPTIONS.rates, hostBytesPerSecond: 1e12 };
  const options: PlanOptions = { ...OPTIONS, rates, offload: true, policy: { kind: "recompute" } };
  const all = plan(stack(6), options).checkpointing();
  // The first layer's boundary is the input.
  const boundaries = 5 * 64 * 32 * 4;
  assert.ok(all.offloaded.bytes > 2 * boundaries, `${all.offloaded.bytes} bytes offloaded`);
  for (const hostBytes of [all.offloaded.bytes, boundaries + 64 * 32 * 4, boundaries, boundaries / 2, 0]) {
    const program = plan(stack(6), { ...options, hostBytes });
    const { offloaded, kept, recomputed } = program.checkpointing();
    assert.ok(program.hostBytes <= hostBytes && offloaded.bytes <= hostBytes, `${offloaded.bytes} of ${hostBytes}`);
    assert.equal(
      kept.bytes + recomputed.bytes + offloaded.bytes,
      all.kept.bytes + all.recomputed.bytes + all.offloaded.bytes,
    );
    if (hostBytes < boundaries) assert.ok(kept.bytes >= boundaries - hostBytes, `${kept.bytes} kept`);
    assertDisjoint(program);
  }
});
