import assert from "node:assert/strict";
import { test } from "node:test";
import { openCpuBackend } from "../backends/cpu/backend.ts";
import { differentiate } from "../graph/autodiff.ts";
import { Graph } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import { detach } from "./detach.ts";
import { constantOp, mul, unary } from "./elementwise.ts";
import { sum } from "./reduce.ts";

test("a detached factor counts in the value and not in the derivative", async () => {
  using backend = await openCpuBackend({ threads: 1 });
  backend.poison = true;
  const graph = new Graph();
  const x = graph.input("x", "f32", [2, 3]);
  const loss = sum(mul(unary("square", x), detach(unary("exp", x))));
  const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
  const [gradient] = differentiate(graph, loss, [{ value: x }], one);
  graph.output("loss", loss);
  graph.output("gradient", gradient!);
  const { workspaceOf, rates } = backend;
  for (const kind of ["keep", "recompute"] as const) {
    const executable = backend.compile(plan(graph, { workspaceOf, rates, policy: { kind } }));
    const values = Float32Array.of(-1, 0.5, 2, 0.25, -0.75, 1);
    const got = await executable.execute({ x: values });
    const want = [...values].map((v) => 2 * v * Math.exp(v));
    want.forEach((value, i) => assert.ok(Math.abs(got.gradient![i]! - value) < 1e-5 * (1 + Math.abs(value)), kind));
    const total = [...values].reduce((all, v) => all + v * v * Math.exp(v), 0);
    assert.ok(Math.abs(got.loss![0]! - total) < 1e-5 * total);
    executable.dispose();
  }
});

test("tensors cannot be detached", async () => {
  using backend = await openCpuBackend({ threads: 1 });
  const tensor = backend.createTensor("w", "f32", [2], { role: "weight" });
  assert.throws(() => detach(new Graph().use(tensor)), /detach: expected a computed value, found the tensor/);
  tensor.dispose();
});
