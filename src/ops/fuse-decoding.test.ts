import assert from "node:assert/strict";
import { test } from "node:test";
import { CpuBackend } from "../backends/cpu/backend.ts";
import { Graph, type Value } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import { DecoderTrace } from "../models/decoder.ts";
import { runtimes } from "../testing/kernels.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import { attentionCached, kvWrite } from "./cache.ts";
import { fuseDecoding } from "./fuse-decoding.ts";
import { membersOf } from "./fused-step.ts";

const [, runtime] = [...(await runtimes())][0]!;
const backend = new CpuBackend(runtime);

/** A decoding step of two sequences, each layer with a LoRA on every linear. */
function decodingGraph(modelType: string) {
  const model = tinyModel(backend, modelType, { hidden_size: 64, num_hidden_layers: 2 });
  const { heads, kvHeads, headDim, layers } = model.config;
  const tensors = new Map<string, ReturnType<typeof backend.createTensor>>();
  const tensor = (name: string, shape: number[]) => {
    const known = tensors.get(name) ?? backend.createTensor(name, "f32", shape, { role: "adapter" });
    tensors.set(name, known);
    return known;
  };
  model.adapter = {
    lora(module) {
      if (module === "lm_head") return undefined;
      const [out, deep] = model.parameter(`${module}.weight`).shape as [number, number];
      return { a: tensor(`${module}.a`, [2, deep]), b: tensor(`${module}.b`, [out, 2]), scale: 1, dropout: 0 };
    },
    loraEmbedding: () => undefined,
    replacement: () => undefined,
  };
  const graph = new Graph();
  const input = (name: string): Value => graph.input(name, "i32", [2]);
  const caches = Array.from({ length: 2 * layers }, (_, i) => tensor(`cache${i}`, [8, kvHeads * headDim]));
  const trace = new DecoderTrace(graph, model, { maxPositions: 4 });
  const hidden = trace.run({ ids: input("ids"), positions: input("positions") }, (layer, q, k, v) => {
    const write = (at: number, x: Value) => kvWrite(graph.use(caches[at]!, { mutable: true }), x, input("slots"));
    const [keys, values] = [write(2 * layer, k), write(2 * layer + 1, v)];
    const options = { heads, kvHeads, headDim, scale: 1, softcap: 0, window: 0, maxLength: 4 };
    return attentionCached(q, { keys, values, rows: input("rows"), lengths: input("lengths") }, options);
  });
  graph.output("logits", trace.logits(hidden));
  return graph;
}

test("a layer of a decoding step becomes ten steps", () => {
  const graph = decodingGraph("llama");
  fuseDecoding(graph);
  const layer = [
    "norm_narrow",
    "matmul_group",
    "rope_cache",
    "attention_cached",
    "matmul",
    "matmul",
    "norm_narrow",
    "matmul_group",
    "glu_narrow",
    "matmul",
  ];
  assert.deepEqual(
    graph.nodes.map(({ op }) => op.name),
    ["embedding", ...layer, ...layer, "norm_narrow", "matmul"],
  );
  const [first] = graph.nodes.filter(({ op }) => op.name === "norm_narrow");
  assert.deepEqual(
    membersOf(first!).map(({ op, outputs }) => [op.name, outputs[0]!.shape[1]]),
    [
      ["rms_norm", 64],
      ["matmul", 2],
      ["matmul", 2],
      ["matmul", 2],
    ],
  );
  const program = plan(graph, { workspaceOf: () => 0, rates: backend.rates });
  const caches = program.steps.filter(({ op }) => op.name === "rope_cache").flatMap(({ outputs }) => outputs.slice(2));
  assert.deepEqual(
    caches.map((value) => program.locate(value).kind),
    ["tensor", "tensor", "tensor", "tensor"],
  );
});

test("norms of heads and norms with a residual stay as they are", () => {
  const names = (modelType: string) => {
    const graph = decodingGraph(modelType);
    fuseDecoding(graph);
    return graph.nodes.map(({ op }) => op.name);
  };
  assert.equal(names("qwen3").filter((name) => name === "rms_norm").length, 4);
  assert.equal(names("qwen3").filter((name) => name === "rope_cache").length, 2);
  assert.equal(names("gemma2").filter((name) => name === "rms_norm").length, 4);
});
