import assert from "node:assert/strict";
import { test } from "node:test";
import { Graph, type Value } from "../../../graph/graph.ts";
import { plan } from "../../../graph/plan.ts";
import { linearLogProbs, logProbs } from "../../../ops/log-probs.ts";
import { randomFloats, relativeError, runtimes } from "../../../testing/kernels.ts";
import { interpret } from "../../../testing/reference.ts";
import { CpuBackend } from "../backend.ts";

const [T, d, V] = [150, 24, 301];
const labels = Int32Array.from({ length: T }, (_, t) => (t % 5 === 2 ? -100 : (t * 37) % V));

for (const [name, runtime] of await runtimes()) {
  const backend = new CpuBackend(runtime);
  backend.poison = true;
  for (const [softcap, temperature] of [
    [0, 1],
    [0, 0.7],
    [3, 1.5],
  ] as const) {
    test(`log-probabilities, entropy, mean logit, hits: softcap ${softcap}, T ${temperature} (${name})`, async () => {
      const graph = new Graph();
      const h = graph.input("h", "f32", [T, d]);
      const w = graph.input("w", "f32", [V, d]);
      const logits = graph.input("logits", "f32", [T, V]);
      const y = graph.input("labels", "i32", [T]);
      const given = {
        h: randomFloats(T * d, 1),
        w: randomFloats(V * d, 2),
        logits: randomFloats(T * V, 3).map((x) => 5 * x),
        labels,
      };
      const heads = [
        linearLogProbs(h, { weight: w }, { labels: y, softcap, temperature }),
        logProbs(logits, { labels: y, softcap, temperature }),
      ];
      const outputs = heads.flatMap((head, i) =>
        Object.entries(head).map(([key, value]) => [`${key}${i}`, value] as const),
      );
      for (const [key, value] of outputs) graph.output(key, value);
      const expected = interpret(
        graph,
        new Map<Value, ArrayLike<number>>([
          [h, given.h],
          [w, given.w],
          [logits, given.logits],
          [y, given.labels],
        ]),
        outputs.map(([, value]) => value),
      );
      const executable = backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
      const actual = await executable.execute(given);
      for (const [i, [key]] of outputs.entries()) {
        assert.ok(
          relativeError(actual[key]!, expected[i]!) < 1e-5,
          `${key}: ${relativeError(actual[key]!, expected[i]!)}`,
        );
        for (let t = 2; t < T; t += 5) assert.equal(actual[key]![t], 0);
      }
      executable.dispose();
    });
  }
}
