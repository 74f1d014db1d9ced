import assert from "node:assert/strict";
import { test } from "node:test";
import { differentiate } from "../graph/autodiff.ts";
import { Graph, type Value } from "../graph/graph.ts";
import { constantOp, mul } from "./elementwise.ts";
import { linear, matmul } from "./matmul.ts";
import { groupTrainingProducts } from "./product-groups.ts";
import { sum } from "./reduce.ts";

/** Layers of the given widths with low-rank updates that share x = a·b, differentiated by their A, B and by a. */
function layers(widths: readonly number[], adapted = true): { graph: Graph; gradients: Value[] } {
  const graph = new Graph();
  const [rows, d, r] = [32, 64, 4];
  const input = (name: string, shape: number[]) => graph.input(name, "f32", shape);
  const a = input("a", [rows, d]);
  const x = mul(a, input("b", [rows, d]));
  const targets = [a];
  let loss: Value | null = null;
  widths.forEach((n, i) => {
    const [A, B] = [input(`A${i}`, [r, d]), input(`B${i}`, [n, r])];
    const base = matmul(x, input(`w${i}`, [n, d]), { transB: true });
    const y = adapted ? matmul(linear(x, A), B, { transB: true, alpha: 2, acc: base }) : base;
    if (adapted) targets.push(A, B);
    const part = sum(mul(y, input(`u${i}`, [rows, n])));
    loss = loss ? matmul(loss, input("one", [1, 1]), { acc: part }) : part;
  });
  const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
  const found = differentiate(
    graph,
    loss!,
    targets.map((value) => ({ value })),
    one,
  );
  found.forEach((gradient, i) => graph.output(`d${i}`, gradient!));
  graph.output("loss", loss!);
  return { graph, gradients: found.map((gradient) => gradient!) };
}

const products = (graph: Graph): string[] =>
  graph.nodes
    .filter(({ op, outputs }) => op.name.startsWith("matmul_") || (op.name === "matmul" && outputs[0]!.bytes > 4))
    .map(({ op, outputs, phase }) => `${phase} ${op.name} ${outputs.map(({ shape }) => shape.join("x")).join(" ")}`);

test("layers that share an input and have updates become groups, their gradients too", () => {
  const { graph } = layers([96, 64, 64]);
  groupTrainingProducts(graph);
  const names = products(graph);
  assert.deepEqual(names.slice(0, 2), [
    "forward matmul_group 32x4 32x4 32x4",
    "forward matmul_group 32x96 32x64 32x64",
  ]);
  assert.deepEqual(names.slice(2), ["backward matmul_group 4x64 4x64 4x64", "backward matmul_chain 32x64"]);
  // dlow_i and dB_i, of one dy.
  const pairs = graph.nodes.filter(({ op }) => op.name === "lora_grad");
  assert.deepEqual(
    pairs.map(({ outputs }) => outputs.map(({ shape }) => shape.join("x")).join(" ")),
    ["32x4 64x4", "32x4 64x4", "32x4 96x4"],
  );
  const made = new Set<Value>([...graph.inputs.values()]);
  for (const node of graph.nodes) {
    for (const value of node.inputs) assert.ok(!value || made.has(value), `${value} is read before it is made`);
    for (const value of node.outputs) {
      assert.equal(value.node, node);
      made.add(value);
    }
  }
  for (const [name, value] of graph.outputs) assert.ok(made.has(value), `output ${name} is made by nothing`);
});

test("more than three become groups of at most three; without updates nothing is grouped", () => {
  const { graph } = layers([32, 32, 32, 32]);
  groupTrainingProducts(graph);
  const groups = products(graph).filter((name) => name.includes("matmul_group"));
  assert.ok(groups.every((name) => name.split(" ").length <= 5));
  const plain = layers([32, 32], false).graph;
  groupTrainingProducts(plain);
  assert.equal(products(plain).filter((name) => /group|chain/.test(name)).length, 0);
});
