/**
 * Writes adapters, and this library's logits with them, for tests/oracle/check_adapter.py to load with PEFT.
 * Run: node --import tsx src/peft/check-adapters.test.support.ts FOLDER
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openCpuBackend } from "../backends/cpu/backend.ts";
import { writeSafetensors } from "../formats/safetensors.ts";
import { numel } from "../graph/types.ts";
import { loadModel } from "../models/load/load.ts";
import { oraclePath } from "../testing/oracle.ts";
import { Rng } from "../util/rng.ts";
import { saveAdapter } from "./adapter-files.ts";
import { attachLora } from "./attach.ts";
import { logitsOf } from "./peft.test.support.ts";
import { writeFloats } from "./weights.ts";

const CASES: Record<string, [family: string, options: Record<string, unknown>]> = {
  ...Object.fromEntries(
    ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2"].map((family) => [
      family,
      [family, { r: 4, loraAlpha: 9.5, loraDropout: 0.05, targetModules: "all-linear" }],
    ]),
  ),
  rslora: ["qwen2", { useRslora: true, r: 3, targetModules: ["q_proj", "up_proj"] }],
  regex: ["qwen3", { targetModules: ".*layers\\.[01]\\.(self_attn\\.[qk]|mlp\\.down)_proj" }],
  patterns: [
    "llama",
    {
      targetModules: "all-linear",
      rankPattern: { up_proj: 2, "mlp.*": 6 },
      alphaPattern: { "layers.1.self_attn.q_proj": 3, q_proj: 24 },
    },
  ],
  layers: ["gemma2", { targetModules: ["q_proj", "gate_proj"], layersToTransform: [0, 3], layersPattern: "layers" }],
  exclude: ["llama", { targetModules: "all-linear", excludeModules: ["down_proj"] }],
  bias_all: ["qwen2", { targetModules: ["q_proj"], bias: "all" }],
  bias_lora_only: ["qwen2", { targetModules: ["q_proj", "v_proj", "o_proj"], bias: "lora_only" }],
  saved: ["llama", { targetModules: ["v_proj"], modulesToSave: ["lm_head", "embed_tokens", "norm"] }],
  saved_layer: ["qwen2", { targetModules: ["q_proj"], modulesToSave: ["layers.0.mlp", "k_proj"], bias: "all" }],
  embeddings: ["llama", { targetModules: ["embed_tokens", "lm_head", "q_proj"] }],
  tied_embeddings: ["gemma2", { targetModules: ["embed_tokens", "lm_head", "q_proj"] }],
  tied_saved: ["llama3", { targetModules: ["q_proj"], modulesToSave: ["lm_head"] }],
  dora: ["qwen2", { useDora: true, r: 3, targetModules: "all-linear", useRslora: true }],
  dora_embedding: ["llama", { useDora: true, targetModules: ["embed_tokens", "lm_head", "q_proj"] }],
  adalora: ["qwen3", { peftType: "ADALORA", initR: 5, targetR: 2, targetModules: ["q_proj", "up_proj"] }],
  adalora_pruned: ["llama", { peftType: "ADALORA", initR: 4, targetR: 2, targetModules: "all-linear", totalStep: 50 }],
  pissa: [
    "qwen2",
    { initLoraWeights: "pissa", r: 4, targetModules: ["q_proj", "down_proj"], alphaPattern: { q_proj: 3 } },
  ],
  pissa_dora: [
    "llama",
    { initLoraWeights: "pissa_niter_4", useDora: true, useRslora: true, targetModules: ["o_proj"] },
  ],
  olora: ["gemma2", { initLoraWeights: "olora", r: 6, targetModules: ["v_proj", "gate_proj"] }],
  orthogonal: ["llama", { initLoraWeights: "orthogonal", targetModules: ["v_proj"] }],
  tokens: ["llama", { targetModules: ["q_proj"], trainableTokenIndices: { embed_tokens: [12, 5], lm_head: [61] } }],
  tokens_tied: ["qwen2", { targetModules: ["q_proj"], bias: "all", trainableTokenIndices: [80, 7, 99] }],
  tokens_scaled: ["gemma2", { targetModules: ["v_proj"], trainableTokenIndices: [5, 22] }],
  tied_as_one: ["llama3", { targetModules: ["q_proj"], modulesToSave: ["embed_tokens"], ensureWeightTying: true }],
};

const folder = process.argv[2];
if (!folder) throw new Error("the folder to write to is missing");
using backend = await openCpuBackend({ threads: 1 });
const ids = [1, 33, 7, 80, 12, 94, 5, 5, 61, 40, 22];
for (const [name, [family, options]] of Object.entries(CASES)) {
  const base = oraclePath("families", family, "model");
  using model = await loadModel({ path: base, backend });
  using adapter = await attachLora(model, options);
  // As if trained: every tensor moved by something of its own size.
  const rng = new Rng(7);
  for (const { tensor, kind, shape } of adapter.tensors) {
    const values = new Float32Array((await tensor.read()).buffer as ArrayBuffer);
    const size = kind === "A" || kind === "B" ? 0.7 / Math.sqrt(shape[1]!) : 0.2;
    writeFloats(
      tensor,
      values.map((value) => value + size * rng.normal()),
    );
    if (values.length !== numel(shape)) throw new Error(`${name}: ${tensor.name} has ${values.length} numbers`);
  }
  const { adalora } = adapter;
  if (name === "adalora_pruned") {
    // Every rank from none to all.
    const kept = (i: number) => Array.from({ length: 4 }, (_, k) => (i + k) % 5 < i % 5);
    adalora!.ranks = new Map(adapter.targets.map(({ path }, i) => [path, kept(i)]));
    for (const { tensor, kind, target } of adapter.tensors) {
      if (kind !== "E") continue;
      const used = adalora!.ranks.get(target!.path)!;
      const values = new Float32Array((await tensor.read()).buffer as ArrayBuffer);
      writeFloats(
        tensor,
        values.map((value, k) => (used[k] ? value : 0)),
      );
    }
  }
  const target = join(folder, name);
  mkdirSync(target, { recursive: true });
  await saveAdapter(adapter, target);
  const logits = await logitsOf(model, ids);
  const shape = [ids.length, model.config.vocabSize];
  const data = new Uint8Array(logits.buffer);
  await writeSafetensors(join(target, "logits.safetensors"), [{ name: "logits", dtype: "F32", shape, data }]);
  writeFileSync(join(target, "case.json"), JSON.stringify({ base, ids }));
}
