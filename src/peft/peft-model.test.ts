import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { oracleJson, oraclePath } from "../testing/oracle.ts";
import { getPeftModel } from "./get-peft-model.ts";
import { assertClose, logitsOf, oracleModel, scratchFolder, testBackend } from "./peft.test.support.ts";
import { PeftModel } from "./peft-model.ts";

const IDS = [1, 40, 7, 22, 85, 3];

test("getPeftModel has Unsloth's defaults", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/llama/model");
  using peft = await getPeftModel(model);
  const { config, targets } = peft.adapter;
  assert.equal(config.r, 16);
  assert.equal(config.loraAlpha, 16);
  assert.equal(config.loraDropout, 0);
  assert.equal(config.bias, "none");
  assert.equal(config.randomState, 3407);
  assert.equal(targets.length, 7 * 2);
  assert.equal(peft.gradientCheckpointing, "unsloth");
  assert.equal(model.adapter, peft.adapter);
});

test("getPeftModel takes Python's spellings, and names what it does not know", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/llama/model");
  const rejected = (options: Record<string, unknown>, message: RegExp) =>
    assert.rejects(getPeftModel(model, options), message);
  await rejected({ lora_alpa: 8 }, /getPeftModel: unknown option "lora_alpa"; did you mean "loraAlpha"\?/);
  await rejected({ useGradientCheckpointing: "full" }, /useGradientCheckpointing: expected true, false or "unsloth"/);
  await rejected({ lora_bias: true }, /getPeftModel: lora_bias: a bias on B is not supported yet/);
  await rejected({ peft_type: "IA3" }, /getPeftModel: peftType: expected "LORA" or "ADALORA", found "IA3"/);
  await rejected(
    { targetModules: ["q_prj"] },
    /getPeftModel: targetModules: the model has no module "q_prj"; did you mean "q_proj"\?/,
  );
  using peft = await getPeftModel(model, {
    r: 4,
    target_modules: ["q_proj", "v_proj"],
    lora_alpha: 8,
    lora_dropout: 0,
    bias: "none",
    use_gradient_checkpointing: false,
    random_state: 1,
    max_seq_length: 2048,
    use_rslora: false,
    loftq_config: null,
  });
  assert.equal(peft.adapter.targets.length, 4);
  assert.equal(peft.gradientCheckpointing, false);
});

test("as with Unsloth, embeddings and head among the targets are trained in full", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/llama/model");
  using peft = await getPeftModel(model, { targetModules: ["q_proj", "embed_tokens", "lm_head"] });
  assert.deepEqual(peft.adapter.config.targetModules, ["q_proj"]);
  assert.deepEqual(peft.adapter.config.modulesToSave, ["embed_tokens", "lm_head"]);
  const names = peft.trainable().map(({ name }) => name);
  assert.ok(names.includes("base_model.model.lm_head.weight"));
  assert.ok(!names.some((name) => name.includes("lora_embedding")));
});

test("the count of trained parameters is printed as PEFT prints it", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/llama/model");
  using peft = await getPeftModel(model, { r: 4, targetModules: ["q_proj", "v_proj"] });
  const lines: string[] = [];
  peft.printTrainableParameters((line) => lines.push(line));
  // What PEFT 0.21.2 prints for this model and configuration.
  assert.deepEqual(lines, ["trainable params: 896 || all params: 30,304 || trainable%: 2.9567"]);
});

test("disableAdapter runs on the base model and puts the adapter back, also after an error", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/qwen2/model");
  const base = await logitsOf(model, IDS);
  using peft = await PeftModel.fromPretrained(model, oraclePath("families", "qwen2", "adapter"));
  const adapted = await logitsOf(model, IDS);
  assert.notDeepEqual(adapted, base);
  assert.deepEqual(await peft.disableAdapter(() => logitsOf(model, IDS)), base);
  await assert.rejects(
    peft.disableAdapter(() => {
      throw new Error("inside");
    }),
    /inside/,
  );
  assert.deepEqual(await logitsOf(model, IDS), adapted);
});

test("several adapters on one model: one in use, all saved, each in PEFT's place", async (t) => {
  const backend = await testBackend(t);
  const folder = scratchFolder(t);
  const model = await oracleModel(backend, "families/qwen2/model");
  {
    const peft = await PeftModel.fromPretrained(model, oraclePath("lora_variants", "rslora"));
    const first = await logitsOf(model, IDS);
    await peft.loadAdapter(oraclePath("lora_variants", "patterns"), "second");
    await peft.addAdapter("third", { targetModules: ["up_proj"] });
    assert.deepEqual(await logitsOf(model, IDS), first, "adding does not switch");
    peft.setAdapter("second");
    const second = await logitsOf(model, IDS);
    assert.notDeepEqual(second, first);
    await peft.savePretrained(folder);
    assert.ok(existsSync(join(folder, "adapter_config.json")));
    assert.ok(existsSync(join(folder, "second", "adapter_model.safetensors")));

    assert.throws(() => peft.deleteAdapter("second"), /in use/);
    assert.throws(() => peft.setAdapter("fourth"), /there are default, second, third/);
    await assert.rejects(peft.addAdapter("../x", {}), /adapter name/);
    await assert.rejects(peft.addAdapter("third", {}), /already an adapter named "third"/);
    peft.deleteAdapter("third");
    assert.deepEqual([...peft.adapters.keys()], ["default", "second"]);
    assert.equal(peft.unload(), model);

    using again = await PeftModel.fromPretrained(model, folder, { subfolder: "second", adapterName: "second" });
    assert.deepEqual(await logitsOf(model, IDS), second);
    assert.equal(again.activeAdapter, "second");
  }
  const { tensors } = backend.memory();
  assert.deepEqual([tensors.weight, tensors.adapter], [0, 0], "disposing frees everything");
});

test("a merged model refuses what would need the adapter", async (t) => {
  const { base_model } = oracleJson<{ base_model: string }>("lora_variants", "rslora", "expect.json");
  const model = await oracleModel(await testBackend(t), base_model);
  using peft = await PeftModel.fromPretrained(model, oraclePath("lora_variants", "rslora"));
  const logits = await logitsOf(model, IDS);
  assert.throws(() => peft.unmergeAdapter(), /no adapter is merged/);
  await peft.mergeAdapter();
  assert.ok(peft.isMerged);
  await assert.rejects(peft.mergeAdapter(), /mergeAdapter: the adapter is merged; unmergeAdapter first/);
  await assert.rejects(peft.savePretrained("nowhere"), /unmergeAdapter first/);
  assert.throws(() => peft.unload(), /unmergeAdapter first/);
  const merged = await peft.mergeAndUnload();
  assertClose(await logitsOf(merged, IDS), logits, 2e-6);
  assert.equal(merged.adapter, null);
});
