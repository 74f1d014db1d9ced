import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { f32ToBf16, f32ToF16 } from "../formats/float16.ts";
import { writeSafetensors } from "../formats/safetensors.ts";
import { type OracleTensor, oracleFloats, oracleJson, oraclePath, oracleTensors } from "../testing/oracle.ts";
import { loadAdapter, saveAdapter } from "./adapter-files.ts";
import { attachLora } from "./attach.ts";
import { assertClose, logitsOf, oracleModel, scratchFolder, testBackend } from "./peft.test.support.ts";
import { readWeight } from "./weights.ts";

const SOURCE = ["families", "qwen2", "adapter"];
const Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

interface Changes {
  config?: (config: Record<string, unknown>) => void;
  tensors?: (tensors: Map<string, OracleTensor>) => void;
}

/** A copy of PEFT's adapter for the tiny qwen2, changed. */
async function changedAdapter(t: TestContext, changes: Changes): Promise<string> {
  const folder = scratchFolder(t);
  const config = oracleJson<Record<string, unknown>>(...SOURCE, "adapter_config.json");
  changes.config?.(config);
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify(config));
  const tensors = oracleTensors(...SOURCE, "adapter_model.safetensors");
  changes.tensors?.(tensors);
  const list = [...tensors].map(([name, tensor]) => ({ name, ...tensor }));
  await writeSafetensors(join(folder, "adapter_model.safetensors"), list, { format: "pt" });
  return folder;
}

test("16-bit adapters become f32", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/qwen2/model");
  for (const [dtype, narrow] of [
    ["F16", f32ToF16],
    ["BF16", f32ToBf16],
  ] as const) {
    let narrowed = new Map<string, OracleTensor>();
    const folder = await changedAdapter(t, {
      tensors: (tensors) => {
        narrowed = tensors;
        for (const [name, tensor] of tensors) {
          const bits = new Uint16Array(tensor.data.length / 4);
          narrow(oracleFloats(tensors, name), bits);
          tensors.set(name, { ...tensor, dtype, data: new Uint8Array(bits.buffer) });
        }
      },
    });
    using adapter = await loadAdapter(model, folder);
    for (const { name, tensor } of adapter.tensors) {
      assert.equal(tensor.dtype, "f32");
      assert.deepEqual(await readWeight(backend, tensor), oracleFloats(narrowed, name), name);
    }
  }
});

test("unknown keys are dropped with a warning, older files need few keys", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/qwen2/model");
  const folder = await changedAdapter(t, {
    config: (config) => {
      for (const key of Object.keys(config)) {
        if (!["peft_type", "target_modules", "r", "lora_alpha"].includes(key)) delete config[key];
      }
      config.brand_new_option = { a: 1 };
      config.rank_pattern = null;
      config.base_model_name_or_path = "some/other-model";
    },
  });
  using adapter = await loadAdapter(model, folder);
  assert.deepEqual(adapter.warnings, [`${folder}/adapter_config.json: ignored unknown keys "brand_new_option"`]);
  const target = scratchFolder(t);
  await saveAdapter(adapter, target);
  const saved = JSON.parse(readFileSync(join(target, "adapter_config.json"), "utf8"));
  assert.equal(saved.brand_new_option, undefined);
  assert.equal(saved.base_model_name_or_path, "some/other-model");
});

test("names in target_modules that this model lacks are passed over, as PEFT does", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/qwen2/model");
  const folder = await changedAdapter(t, { config: (config) => (config.target_modules as string[]).push("c_attn") });
  using adapter = await loadAdapter(model, folder);
  assert.match(adapter.warnings[0]!, /the model has no module "c_attn"/);
});

test("initialisations that left the base model alone can be loaded, others not", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/qwen2/model");
  const withInit = (init: unknown) => changedAdapter(t, { config: (config) => (config.init_lora_weights = init) });
  for (const init of ["eva", "orthogonal", "gaussian", false]) {
    using adapter = await loadAdapter(model, await withInit(init));
    const target = scratchFolder(t);
    await saveAdapter(adapter, target);
    assert.equal(JSON.parse(readFileSync(join(target, "adapter_config.json"), "utf8")).init_lora_weights, init);
  }
  await assert.rejects(
    loadAdapter(model, await withInit("corda")),
    /initLoraWeights: this initialisation is not supported yet/,
  );
});

test("wrong files are told from right ones by file and tensor or key", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/qwen2/model");
  const cases: [Changes, RegExp][] = [
    [
      { config: (c) => delete c.peft_type },
      /adapter_config.json: peft_type: found nothing; expected "LORA" or "ADALORA"/,
    ],
    [{ config: (c) => (c.peft_type = "IA3") }, /adapter_config.json: peft_type: found "IA3"/],
    [{ config: (c) => (c.use_qalora = true) }, /adapter_config.json: use_qalora: QALoRA is not supported yet/],
    [{ config: (c) => (c.use_dora = true) }, /tensor ".*q_proj.lora_magnitude_vector": found nothing \(and 13 more/],
    [{ config: (c) => (c.r = "four") }, /adapter_config.json: r: .*found "four"/],
    [{ config: (c) => (c.task_type = "TOKEN_CLS") }, /adapter_config.json: taskType: only "CAUSAL_LM"/],
    [
      { config: (c) => (c.target_modules = "(") },
      /adapter_config.json: targetModules: "\(" is not a regular expression/,
    ],
    [{ config: (c) => (c.target_modules = ["c_attn"]) }, /targetModules \["c_attn"\] leaves no module to train/],
    [
      { config: (c) => (c.r = 8) },
      /adapter_model.safetensors: tensor ".*lora_A.weight" shape: found \[4, 40\]; expected \[8, 40\], by r, rank_pattern/,
    ],
    [
      { tensors: (tensors) => tensors.delete(Q_PROJ) },
      /adapter_model.safetensors: tensor ".*layers.0.self_attn.q_proj.lora_A.weight": found nothing; expected/,
    ],
    [
      { config: (c) => (c.target_modules = ["q_proj"]) },
      /tensor ".*_proj.lora_.*" *: found a tensor that adapter_config.json does not call for on this model \(and 23 more/,
    ],
    [
      { tensors: (tensors) => tensors.set(Q_PROJ, { ...tensors.get(Q_PROJ)!, dtype: "I32" }) },
      /tensor ".*q_proj.lora_A.weight" dtype: found I32; expected F32, F16 or BF16/,
    ],
  ];
  for (const [changes, message] of cases) {
    await assert.rejects(loadAdapter(model, await changedAdapter(t, changes)), message);
    assert.equal(model.adapter, null);
  }
  assert.equal(backend.memory().tensors.adapter, 0, "nothing stays allocated after an error");
});

test("an adapter for another model does not fit", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/llama/model");
  await assert.rejects(
    loadAdapter(model, oraclePath(...SOURCE)),
    /tensor ".*lora_A.weight" shape: found \[4, 40\]; expected \[4, 32\], by r, rank_pattern and the model/,
  );
});

test("missing and unreadable files", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/qwen2/model");
  const folder = await changedAdapter(t, {});
  await assert.rejects(
    loadAdapter(model, join(folder, "nowhere")),
    /nowhere\/adapter_config.json: file: found no such folder/,
  );
  writeFileSync(join(folder, "adapter_config.json"), '{"peft_type": "LORA", "r": 4, "r": 8}');
  await assert.rejects(loadAdapter(model, folder), /adapter_config.json: contents: found the key "r" twice/);
  writeFileSync(join(folder, "adapter_config.json"), "{");
  await assert.rejects(loadAdapter(model, folder), /adapter_config.json: contents: found invalid JSON/);

  const parent = scratchFolder(t);
  mkdirSync(join(parent, "mine"));
  writeFileSync(
    join(parent, "mine", "adapter_config.json"),
    readFileSync(oraclePath(...SOURCE, "adapter_config.json")),
  );
  await assert.rejects(loadAdapter(model, parent), /there are adapters in its subfolders "mine"/);
  writeFileSync(join(parent, "mine", "adapter_model.bin"), "");
  await assert.rejects(
    loadAdapter(model, parent, { subfolder: "mine" }),
    /found only adapter_model.bin, a Python pickle/,
  );
  rmSync(join(parent, "mine", "adapter_model.bin"));
  await assert.rejects(
    loadAdapter(model, parent, { subfolder: "mine" }),
    /adapter_model.safetensors: file: found ENOENT/,
  );
});

test("patterns whose first match counts survive a file's sorted keys", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/llama/model");
  const folder = scratchFolder(t);
  const ids = [1, 2, 3, 4];
  // Sorted, "mlp.*" would come before "up_proj" and take it.
  const rankPattern = { up_proj: 2, "mlp.*": 6 };
  let logits: Float32Array;
  {
    const options = {
      r: 4,
      targetModules: "all-linear",
      rankPattern,
      alphaPattern: { down_proj: 3 },
      initLoraWeights: false,
    };
    using adapter = await attachLora(model, options);
    logits = await logitsOf(model, ids);
    await saveAdapter(adapter, folder);
  }
  using adapter = await loadAdapter(model, folder);
  assert.equal(adapter.targets.find(({ path }) => path.endsWith("0.mlp.up_proj"))!.r, 2);
  assert.equal(adapter.targets.find(({ path }) => path.endsWith("0.mlp.down_proj"))!.scale, 0.5);
  assertClose(await logitsOf(model, ids), logits, 0);
});

test("base weights of targeted embeddings are written in the model's type, or left out", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/llama/model", { dtype: "bfloat16" });
  using adapter = await attachLora(model, { targetModules: ["embed_tokens", "lm_head"], initLoraWeights: false });
  const [full, slim] = [scratchFolder(t), scratchFolder(t)];
  await saveAdapter(adapter, full);
  await saveAdapter(adapter, slim, { saveEmbeddingLayers: false });
  const names = (folder: string) => {
    const bytes = readFileSync(join(folder, "adapter_model.safetensors"));
    return JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE())).toString());
  };
  assert.equal(names(full)["base_model.model.lm_head.base_layer.weight"].dtype, "BF16");
  assert.ok("base_model.model.model.embed_tokens.base_layer.weight" in names(full));
  assert.deepEqual(Object.keys(names(slim)).sort(), [
    "__metadata__",
    "base_model.model.lm_head.lora_A.weight",
    "base_model.model.lm_head.lora_B.weight",
    "base_model.model.model.embed_tokens.lora_embedding_A",
    "base_model.model.model.embed_tokens.lora_embedding_B",
  ]);
  model.adapter = null;
  using again = await loadAdapter(model, full);
  assert.equal(again.overrides.size, 0, "the same numbers in the file as in the model: no second copy");
});
