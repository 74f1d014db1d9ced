import assert from "node:assert/strict";
import { test } from "node:test";
import { Graph } from "../graph/graph.ts";
import { linear, matmul } from "./matmul.ts";
import { groupMembers, groupProducts } from "./matmul-group.ts";
import { rmsNorm } from "./norm.ts";

/** q, k and v of one input with a LoRA each, then a product that awaits q. */
function layer(graph: Graph) {
  const x = graph.input("x", "f32", [2, 64]);
  const project = (name: string, features: number) => {
    const low = linear(x, graph.input(`${name}.a`, "f32", [4, 64]));
    const y = linear(x, graph.input(`${name}.w`, "f32", [features, 64]));
    return matmul(low, graph.input(`${name}.b`, "f32", [features, 4]), { transB: true, alpha: 2, acc: y });
  };
  const q = rmsNorm(project("q", 64), graph.input("norm", "f32", [64]), { eps: 1e-5 });
  const [k, v] = [project("k", 32), project("v", 32)];
  const o = linear(q, graph.input("o", "f32", [64, 64]));
  for (const [name, value] of Object.entries({ k, v, o })) graph.output(name, value);
}

test("products of one input become groups at the first of them, narrow ones apart from wide ones", () => {
  const graph = new Graph();
  layer(graph);
  const outputs = [...graph.outputs.values()];
  groupProducts(graph);
  assert.deepEqual(
    graph.nodes.map(({ op, outputs }) => [op.name, ...outputs.map(({ shape }) => shape[1])]),
    [
      ["matmul_group", 4, 4, 4],
      ["matmul_group", 64, 32, 32],
      ["rms_norm", 64],
      ["matmul", 64],
    ],
  );
  const wide = groupMembers(graph.nodes[1]!);
  assert.deepEqual(
    wide.map(({ attrs }) => attrs.alpha2),
    [2, 2, 2],
  );
  assert.deepEqual(
    wide.map(({ inputs }) => inputs[4]),
    graph.nodes[0]!.outputs,
  );
  assert.deepEqual([...graph.outputs.values()], outputs, "the same values");
  assert.equal(wide[1]!.outputs[0], outputs[0]);
});
