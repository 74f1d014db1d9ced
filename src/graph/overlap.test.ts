import assert from "node:assert/strict";
import { test } from "node:test";
import { Graph, type Node, type Value } from "./graph.ts";
import type { Op } from "./op.ts";
import { overlapCopies } from "./overlap.ts";
import { fetchOp, offloadOp, type Rates } from "./remat.ts";

/** One element a second of copying, one operation a second of arithmetic. */
const RATES: Rates = { flopsPerSecond: 1, bytesPerSecond: 1e9, hostBytesPerSecond: 4, copiesOverlap: true };
const workOp: Op<{ flops: number }> = {
  name: "work",
  infer: ([x]) => [{ dtype: "f32", shape: x!.shape }],
  cost: (node) => ({ flops: node.attrs.flops as number, bytes: 0 }),
};

/** `count` values of `size` elements offloaded one after another, then fetched last first, with arithmetic of a second between. */
function schedule(size: number, seconds: number, count = 3): { graph: Graph; steps: Node[] } {
  const graph = new Graph();
  const work = (x: Value): Value => {
    let y = x;
    for (let i = 0; i < seconds; i++) y = graph.apply(workOp, [y], { flops: 1 })[0]!;
    return y;
  };
  let x = graph.input("x", "f32", [size]);
  const hosted: Value[] = [];
  for (let i = 0; i < count; i++) {
    x = work(x);
    hosted.push(graph.apply(offloadOp, [x], {})[0]!);
  }
  for (const host of hosted.reverse()) x = work(graph.apply(fetchOp, [host], {})[0]!);
  return { graph, steps: graph.nodes.slice() };
}

const line = (steps: readonly Node[]): string =>
  steps.map(({ op, inputs }) => (op.name === "copy_wait" ? `wait(${inputs[0]!.node!.op.name})` : op.name)).join(" ");

test("copies run beside arithmetic for as long as they take", () => {
  const { graph, steps } = schedule(2, 4, 2);
  assert.equal(
    line(overlapCopies(graph, steps, RATES)),
    // Two seconds each: an offload is waited for three steps on (it takes a little more than two), a fetch starts early.
    "work work work work offload work work work wait(offload) work offload wait(offload) fetch wait(fetch) fetch work work work work wait(fetch) work work work work",
  );
});

test("every copy is waited for once, before its result is read and after it was started", () => {
  for (const [size, seconds] of [
    [1, 1],
    [5, 2],
    [40, 3],
    [2, 9],
  ] as const) {
    const { graph, steps } = schedule(size, seconds, 6);
    const planned = overlapCopies(graph, steps, RATES);
    const at = new Map(planned.map((node, i) => [node, i]));
    assert.equal(planned.length, steps.length + 12);
    const waited = new Map<Value, number>();
    for (const [i, node] of planned.entries()) {
      if (node.op.name === "copy_wait") {
        const copied = node.inputs[0]!;
        assert.ok(!waited.has(copied));
        assert.ok(at.get(copied.node!)! < i);
        waited.set(copied, i);
        continue;
      }
      for (const value of node.inputs) {
        const maker = value!.node?.op.name;
        if (maker === "fetch" || maker === "offload")
          assert.ok(waited.get(value!)! < i, `${node.op.name} before its wait`);
      }
    }
    assert.deepEqual(
      planned.filter(({ op }) => op.name === "work"),
      steps.filter(({ op }) => op.name === "work"),
    );
  }
});

test("slow copies hold no more than two arrays", () => {
  const { graph, steps } = schedule(400, 1, 6);
  let open = 0;
  for (const { op } of overlapCopies(graph, steps, RATES)) {
    if (op.name === "offload" || op.name === "fetch") open++;
    if (op.name === "copy_wait") open--;
    assert.ok(open <= 2, `${open} copies under way`);
  }
});

test("without overlap the schedule is what it was", () => {
  const { graph, steps } = schedule(2, 2);
  assert.deepEqual(overlapCopies(graph, steps, { ...RATES, copiesOverlap: false }), steps);
});
