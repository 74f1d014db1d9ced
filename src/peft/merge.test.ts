import assert from "node:assert/strict";
import { test } from "node:test";
import { bf16ToF32 } from "../formats/float16.ts";
import { loadModel } from "../models/load/load.ts";
import type { CausalLM } from "../models/model.ts";
import { parameterSpecs } from "../models/parameters.ts";
import { saveModel } from "../models/save.ts";
import { oracleFloats, oracleJson, oraclePath, oracleTensors } from "../testing/oracle.ts";
import { loadAdapter } from "./adapter-files.ts";
import { attachLora } from "./attach.ts";
import { mergeLora } from "./merge.ts";
import { assertClose, logitsOf, oracleModel, scratchFolder, testBackend } from "./peft.test.support.ts";
import { PeftModel } from "./peft-model.ts";
import { readWeight } from "./weights.ts";

const own = (name: string): string[] => ["..", "peft", "adapters", name];
const ADAPTERS = [
  ...["rslora_patterns", "modules_to_save", "bias_all", "embedding_untied", "embedding_tied"].map((name) => [
    "lora_variants",
    name,
  ]),
  ...["tied_saved_embedding", "tied_saved_head", "tied_saved_both", "tied_saved_as_one", "tied_updated_both"].map(own),
  ...["scaled_embedding", "saved_layers", "other_base", "other_base_tied"].map(own),
];

/** Those that make a tied model's two sides differ. */
const UNTIED = [
  "tied_saved_embedding",
  "tied_saved_head",
  "tied_saved_both",
  "tied_updated_both",
  "embedding_tied",
  "scaled_embedding",
  "other_base_tied",
];

interface Expectation {
  base_model: string;
  input_ids: number[];
}

async function contents(model: CausalLM): Promise<Map<string, Uint8Array>> {
  const all = new Map<string, Uint8Array>();
  for (const [name, tensor] of model.parameters) all.set(name, await tensor.read());
  return all;
}

test("a merged model gives the adapter's logits; unmerging restores every byte", async (t) => {
  const backend = await testBackend(t);
  for (const path of ADAPTERS) {
    const label = path.at(-1)!;
    const { base_model, input_ids } = oracleJson<Expectation>(...path, "expect.json");
    const model = await oracleModel(backend, base_model);
    const { config, hfConfig } = model;
    const before = await contents(model);
    using peft = await PeftModel.fromPretrained(model, oraclePath(...path));
    const logits = await logitsOf(model, input_ids);

    const report = await peft.mergeAdapter();
    assert.equal(model.adapter, null);
    assertClose(await logitsOf(model, input_ids), logits, 2e-6, label);
    // Whoever saves the model goes by its configuration: it must list what there now is.
    assert.deepEqual(
      [...model.parameters.keys()].sort(),
      parameterSpecs(model.config)
        .map(({ name }) => name)
        .sort(),
      label,
    );
    assert.equal(report.untied, UNTIED.includes(label), label);
    assert.equal(model.hfConfig.tie_word_embeddings, report.untied ? false : hfConfig.tie_word_embeddings);

    peft.unmergeAdapter();
    assert.deepEqual(await contents(model), before, label);
    assert.equal(model.config, config);
    assert.equal(model.hfConfig, hfConfig);
    assertClose(await logitsOf(model, input_ids), logits, 0, label);
  }
  assert.equal(backend.memory().tensors.weight, 0);
});

test("a merged model is saved and loaded again with the same logits, its head its own where it differs", async (t) => {
  const backend = await testBackend(t);
  for (const name of ["tied_updated_both", "tied_saved_embedding", "tied_saved_as_one", "saved_layers"]) {
    const { base_model, input_ids } = oracleJson<Expectation>(...own(name), "expect.json");
    const peft = await PeftModel.fromPretrained(await oracleModel(backend, base_model), oraclePath(...own(name)));
    using merged = await peft.mergeAndUnload();
    const folder = scratchFolder(t);
    await saveModel(merged, folder);
    using again = await loadModel({ path: folder, backend });
    assert.equal(again.config.tiedHead, !UNTIED.includes(name), name);
    assert.deepEqual(await contents(again), await contents(merged), name);
    const logits = oracleFloats(oracleTensors(...own(name), "expect.safetensors"), "logits");
    assertClose(await logitsOf(again, input_ids), logits, 1e-5, name);
  }
});

test("merged weights are PEFT's", async (t) => {
  const backend = await testBackend(t);
  for (const name of ["rslora_patterns", "modules_to_save"]) {
    const { base_model } = oracleJson<Expectation>("lora_variants", name, "expect.json");
    const model = await oracleModel(backend, base_model);
    const before = await contents(model);
    const peft = await PeftModel.fromPretrained(model, oraclePath("lora_variants", name));
    using merged = await peft.mergeAndUnload();
    const expected = oracleTensors("lora_variants", name, "merged.safetensors");
    for (const [parameter, tensor] of merged.parameters) {
      if (!expected.has(parameter)) assert.deepEqual(await tensor.read(), before.get(parameter), parameter);
      else assertClose(await readWeight(backend, tensor), oracleFloats(expected, parameter), 3e-7, parameter);
    }
  }
});

/** Nearest bfloat16, ties to even, by searching: the two neighbours of x and the distance to each. */
function nearestBf16(x: number): number {
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0]! >>> 16;
  const candidates = new Float32Array(3);
  bf16ToF32(Uint16Array.of(bits - 1, bits, bits + 1), candidates);
  const even = (i: number): number => (bits - 1 + i) % 2;
  const order = [0, 1, 2].sort(
    (i, j) => Math.abs(candidates[i]! - x) - Math.abs(candidates[j]! - x) || even(i) - even(j),
  );
  return candidates[order[0]!]!;
}

test("16-bit weights are updated in f32 and rounded once, to the nearest", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/llama/model", { dtype: "bfloat16" });
  using adapter = await attachLora(model, { r: 3, loraAlpha: 5, targetModules: ["up_proj"], initLoraWeights: false });
  const name = "model.layers.1.mlp.up_proj";
  const base = await readWeight(backend, model.parameter(`${name}.weight`));
  const { a, b, scale } = adapter.lora(name)!;
  const [A, B] = [await readWeight(backend, a), await readWeight(backend, b)];
  await mergeLora(adapter, { keepOriginals: false });
  const merged = model.parameter(`${name}.weight`);
  assert.equal(merged.dtype, "bf16");
  const [rows, cols] = merged.shape as [number, number];
  let differences = 0;
  const got = await readWeight(backend, merged);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      let update = 0;
      for (let k = 0; k < 3; k++) update += B[i * 3 + k]! * A[k * cols + j]!;
      const want = nearestBf16(Math.fround(base[i * cols + j]! + Math.fround(scale * update)));
      // A sum that lies within f32's error of a tie may go either way.
      if (got[i * cols + j] !== want) differences++;
    }
  }
  assert.ok(differences <= 2, `${differences} of ${rows * cols} are not the nearest`);
});

test("4-bit weights are decoded, updated, and become what was asked for; unmerging gives the 4 bits back", async (t) => {
  const backend = await testBackend(t);
  const ids = [1, 5, 9, 30, 2, 17];
  for (const dtype of ["f32", "bf16"] as const) {
    const model = await oracleModel(backend, "families/llama/model", { loadIn4bit: true });
    const linear = "model.layers.0.self_attn.q_proj.weight";
    const original = model.parameter(linear);
    const codes = await original.read();
    assert.equal(original.dtype, "nf4");
    const adapter = await attachLora(model, {
      targetModules: ["q_proj", "down_proj"],
      modulesToSave: ["o_proj"],
      initLoraWeights: false,
    });
    using peft = new PeftModel(model, adapter);
    const logits = await logitsOf(model, ids);
    const report = await peft.mergeAdapter({ dtype });
    assert.equal(report.dequantized.length, 6);
    assert.equal(model.parameter(linear).dtype, dtype);
    assertClose(await logitsOf(model, ids), logits, dtype === "f32" ? 2e-6 : 0.02, dtype);
    peft.unmergeAdapter();
    assert.equal(model.parameter(linear), original);
    assert.deepEqual(await original.read(), codes);
    assertClose(await logitsOf(model, ids), logits, 0);

    await peft.mergeAndUnload({ dtype });
    assertClose(await logitsOf(model, ids), logits, dtype === "f32" ? 2e-6 : 0.02, dtype);
    assert.equal(backend.memory().tensors.adapter, 0);
  }
  assert.equal(backend.memory().tensors.weight, 0);
});

test("a damaged adapter is not merged, and the model stays as it was", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/qwen2/model");
  using adapter = await attachLora(model, {
    targetModules: ["q_proj", "down_proj", "lm_head"],
    initLoraWeights: false,
  });
  const before = await contents(model);
  adapter
    .lora("model.layers.1.mlp.down_proj")!
    .b.write(new Uint8Array(Float32Array.of(Number.NaN).buffer), { offset: 8 });
  await assert.rejects(
    mergeLora(adapter, { keepOriginals: true }),
    /merging gives numbers in model.layers.1.mlp.down_proj.weight that are not finite/,
  );
  assert.deepEqual(await contents(model), before);
});

test("merging again after undoing it gives the same bytes", async (t) => {
  const backend = await testBackend(t);
  const path = own("tied_updated_both");
  const { base_model } = oracleJson<Expectation>(...path, "expect.json");
  using model = await oracleModel(backend, base_model);
  using adapter = await loadAdapter(model, oraclePath(...path));
  const first = await mergeLora(adapter, { keepOriginals: true });
  const once = await contents(model);
  first.undo();
  const second = await mergeLora(adapter, { keepOriginals: true });
  assert.deepEqual(await contents(model), once);
  second.discard();
});
