import assert from "node:assert/strict";
import { test } from "node:test";
import { differentiate } from "../../graph/autodiff.ts";
import { Graph } from "../../graph/graph.ts";
import { plan } from "../../graph/plan.ts";
import type { FloatDType } from "../../graph/types.ts";
import { cast } from "../../ops/cast.ts";
import { linearCrossEntropy } from "../../ops/cross-entropy.ts";
import { constantOp, mul } from "../../ops/elementwise.ts";
import { linearLogProbs } from "../../ops/log-probs.ts";
import { sum } from "../../ops/reduce.ts";
import { randomFloats, relativeError } from "../../testing/kernels.ts";
import type { Backend, Executable } from "../backend.ts";
import { openCpuBackend } from "../cpu/backend.ts";
import { gpu, skipOf } from "./gpu.test.support.ts";

const [TOKENS, D, VOCAB] = [1300, 72, 1003];

/** Loss, metrics and gradients of a head with bias, all of it trained, by cross-entropy or through weighted log-probabilities. */
function compile(backend: Backend, dtype: FloatDType, kind: "loss" | "logps"): Executable {
  const graph = new Graph();
  const h = graph.input("h", "f32", [TOKENS, D]);
  const w = graph.input("w", "f32", [VOCAB, D]);
  const bias = graph.input("bias", "f32", [VOCAB]);
  const labels = graph.input("labels", "i32", [TOKENS]);
  const hidden = cast(h, dtype);
  const trace = () => {
    if (kind === "loss") {
      const lossScale = graph.input("lossScale", "f32", [1]);
      const options = { labels, lossScale, softcap: 8, labelSmoothing: 0.1 };
      const { loss, metrics } = linearCrossEntropy(hidden, { weight: w, bias }, options);
      graph.output("metrics", metrics);
      return loss;
    }
    const result = linearLogProbs(hidden, { weight: w, bias }, { labels, temperature: 0.7 });
    for (const [name, value] of Object.entries(result)) graph.output(name, value);
    return sum(mul(result.logps, graph.input("each", "f32", [TOKENS])));
  };
  const loss = trace();
  graph.output("loss", loss);
  const one = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
  const targets = [h, w, bias].map((value) => ({ value }));
  const gradients = differentiate(graph, loss, targets, one);
  ["dh", "dw", "dbias"].forEach((name, i) => graph.output(name, gradients[i]!));
  return backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
}

/** Labels of `count` tokens spread over all, −100 elsewhere, one of them beyond the vocabulary. */
function labelsOf(count: number): Int32Array {
  const labels = new Int32Array(TOKENS).fill(-100);
  for (let i = 0; i < count; i++) labels[Math.floor((i * TOKENS) / count)] = (i * 37) % VOCAB;
  if (count > 1) labels[0] = VOCAB + 5;
  return labels;
}

for (const kind of ["loss", "logps"] as const) {
  for (const [dtype, tolerance] of [
    ["f32", 2e-5],
    ["bf16", 3e-2],
  ] as const) {
    test(`a head's ${kind} over any number of labelled tokens equals the CPU's (CUDA, ${dtype})`, {
      skip: skipOf(dtype),
    }, async () => {
      using cpu = await openCpuBackend({ threads: 2 });
      const backend = gpu(dtype);
      backend.poison = true;
      const [reference, executable] = [compile(cpu, "f32", kind), compile(backend, dtype, kind)];
      const inputs = {
        h: randomFloats(TOKENS * D, 1),
        w: randomFloats(VOCAB * D, 2),
        bias: randomFloats(VOCAB, 3),
        ...(kind === "loss" ? { lossScale: Float32Array.of(0.01) } : { each: randomFloats(TOKENS, 4) }),
      };
      // One program for all: the same launches, then graphs with what depends on the count between them.
      for (const count of [300, TOKENS, 0, 1, 300, 129]) {
        const labels = labelsOf(count);
        const want = await reference.execute({ ...inputs, labels });
        const got = await executable.execute({ ...inputs, labels });
        for (const [name, values] of Object.entries(want)) {
          if (name === "metrics" || name === "correct") {
            // Where bf16 makes two logits tie, the prediction may differ.
            const off = values.reduce((worst, x, i) => worst + Math.abs(x - got[name]![i]!), 0);
            assert.ok(off <= Math.max(1, count * tolerance * 10), `${name} of ${count} labels is off by ${off}`);
            continue;
          }
          const zero = values.every((x) => x === 0);
          const error = zero ? Math.max(...got[name]!.map(Math.abs)) : relativeError(got[name]!, values);
          assert.ok(error <= tolerance, `${name} of ${count} labels: relative error ${error}`);
        }
      }
      reference.dispose();
      executable.dispose();
      backend.poison = false;
    });
  }
}
