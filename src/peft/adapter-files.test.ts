import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { oracleFloats, oracleJson, oraclePath, oracleTensors } from "../testing/oracle.ts";
import { loadAdapter, saveAdapter } from "./adapter-files.ts";
import { assertClose, logitsOf, oracleModel, scratchFolder, testBackend } from "./peft.test.support.ts";

const FAMILIES = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2"];
const VARIANTS = [
  "rslora",
  "patterns",
  "rslora_patterns",
  "bias_all",
  "bias_lora_only",
  "modules_to_save",
  "layers_to_transform",
  "regex",
  "all_linear",
  "exclude",
  "embedding_untied",
  "embedding_tied",
  "dora",
  "adalora",
];

test("every family with PEFT's adapter gives PEFT's logits", async (t) => {
  const backend = await testBackend(t);
  for (const family of FAMILIES) {
    using model = await oracleModel(backend, `families/${family}/model`);
    using adapter = await loadAdapter(model, oraclePath("families", family, "adapter"));
    assert.deepEqual(adapter.warnings, [], family);
    const expected = oracleTensors("families", family, "expect.safetensors");
    const { batch } = oracleJson<{ batch: { input_ids: number[][] } }>("families", family, "expect.json");
    for (const [i, ids] of batch.input_ids.entries()) {
      assertClose(await logitsOf(model, ids), oracleFloats(expected, `lora_logits.${i}`), 1e-5, `${family} ${i}`);
    }
    model.adapter = null;
    assertClose(await logitsOf(model, batch.input_ids[0]!), oracleFloats(expected, "logits.0"), 1e-5, family);
  }
  assert.equal(backend.memory().tensors.adapter, 0);
});

const OWN_VARIANTS = [
  "tied_saved_embedding",
  "tied_saved_head",
  "tied_saved_both",
  "tied_saved_as_one",
  "tied_updated_both",
  "scaled_embedding",
  "saved_layers",
  "saved_with_biases",
  "other_base",
  "other_base_tied",
];
/** PEFT writes the biases of modules trained in full three times, twice under names it does not read. */
const NOT_EXACT = "saved_with_biases";

interface Expectation {
  base_model: string;
  input_ids: number[];
  trainable_parameters: number;
  all_parameters?: number;
}

test("adapters with each of PEFT's options give PEFT's logits, and are written back byte for byte", async (t) => {
  const backend = await testBackend(t);
  const folder = scratchFolder(t);
  const cases = [
    ...VARIANTS.map((name) => ["lora_variants", name]),
    ...OWN_VARIANTS.map((name) => ["..", "peft", "adapters", name]),
  ];
  for (const path of cases) {
    const variant = path.at(-1)!;
    const expect = oracleJson<Expectation>(...path, "expect.json");
    using model = await oracleModel(backend, expect.base_model);
    using adapter = await loadAdapter(model, oraclePath(...path), { isTrainable: true });
    const { trainable, all } = adapter.parameterCount();
    assert.equal(trainable, expect.trainable_parameters, variant);
    if (expect.all_parameters !== undefined) assert.equal(all, expect.all_parameters, variant);
    assert.equal(adapter.trainable().length, adapter.tensors.length);
    const logits = oracleFloats(oracleTensors(...path, "expect.safetensors"), "logits");
    assertClose(await logitsOf(model, expect.input_ids), logits, 1e-5, variant);

    const target = join(folder, variant);
    await saveAdapter(adapter, target);
    for (const file of ["adapter_model.safetensors", "adapter_config.json"]) {
      const same = readFileSync(join(target, file)).equals(readFileSync(oraclePath(...path, file)));
      assert.equal(same, variant !== NOT_EXACT || file === "adapter_config.json", `${variant}: ${file}`);
    }
  }
  assert.deepEqual(backend.memory().tensors, { ...backend.memory().tensors, weight: 0, adapter: 0 });
});
