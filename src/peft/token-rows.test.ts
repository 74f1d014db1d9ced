import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { CausalLM } from "../models/model.ts";
import { Optimizer } from "../optim/optimizer.ts";
import { relativeError } from "../testing/kernels.ts";
import { oracleFloats, oracleJson, oraclePath, oracleTensors } from "../testing/oracle.ts";
import { type OracleBatch, oracleBatch } from "../testing/oracle-batch.ts";
import { StepRunner } from "../train/step.ts";
import { loadAdapter, saveAdapter } from "./adapter-files.ts";
import { attachLora } from "./attach.ts";
import { FrozenAdapter, hasEffect } from "./frozen-adapter.ts";
import { getPeftModel } from "./get-peft-model.ts";
import { assertClose, logitsOf, oracleModel, scratchFolder, testBackend } from "./peft.test.support.ts";
import { PeftModel } from "./peft-model.ts";
import { readWeight } from "./weights.ts";

interface Expectation {
  readonly base_model: string;
  readonly batch: OracleBatch;
  readonly loss: number;
  readonly target_tokens: number;
  readonly trainable_parameters: number;
}

const CASES = ["tokens_untied", "tokens_tied", "tokens_scaled"];
const OPTIMIZER = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
const IDS = [1, 5, 80, 7, 12, 3];

for (const name of CASES) {
  const expected = oracleJson<Expectation>("peft_variants", name, "expect.json");
  const adapterPath = oraclePath("peft_variants", name, "adapter");

  test(`${name}: logits, loss, every gradient, and the merged tables equal PEFT's`, async (t) => {
    const backend = await testBackend(t);
    backend.poison = true;
    const tensors = oracleTensors("peft_variants", name, "expect.safetensors");
    const base = await oracleModel(backend, expected.base_model);
    using model = await PeftModel.fromPretrained(base, adapterPath, { isTrainable: true });
    for (const [i, ids] of expected.batch.input_ids.entries()) {
      assertClose(await logitsOf(base, ids), oracleFloats(tensors, `lora_logits.${i}`), 1e-5, `logits ${i}`);
    }
    assert.equal(model.parameterCount().trainable, expected.trainable_parameters);
    const optimizer = new Optimizer(backend, model.trainable(), OPTIMIZER);
    for (const kind of ["keep", "recompute"] as const) {
      const runner = new StepRunner({ model: base, optimizer, policy: { kind }, maxPositions: 32 });
      const { loss } = await runner.train(oracleBatch(expected.batch), 1 / expected.target_tokens, new Uint32Array(2));
      assert.ok(Math.abs(loss / expected.loss - 1) <= 1e-5, `loss ${loss}, expected ${expected.loss}`);
      let compared = 0;
      for (const trainable of optimizer.trainables) {
        const buffer = optimizer.gradient(trainable);
        const gradient = new Float32Array((await buffer.read()).buffer as ArrayBuffer);
        const error = relativeError(gradient, oracleFloats(tensors, `grad.${trainable.name}`));
        assert.ok(error <= 1e-4, `${trainable.name}: relative error ${error}`);
        buffer.write(new Uint8Array(buffer.bytes));
        compared++;
      }
      assert.equal(compared, [...tensors.keys()].filter((key) => key.startsWith("grad.")).length);
      runner.dispose();
    }
    optimizer.dispose();
    const logits = await logitsOf(base, IDS);
    const before = await readWeight(backend, base.parameter("model.embed_tokens.weight"));
    await model.mergeAdapter();
    assertClose(await logitsOf(base, IDS), logits, 1e-5, "logits, merged");
    const { tiedHead } = base.config;
    for (const [key, { shape }] of oracleTensors("peft_variants", name, "merged.safetensors")) {
      const [module, index] = key.split(".");
      const table = module === "lm_head" && !tiedHead ? "lm_head.weight" : "model.embed_tokens.weight";
      const rows = await readWeight(backend, base.parameter(table));
      const width = shape[0]!;
      const want = oracleFloats(oracleTensors("peft_variants", name, "merged.safetensors"), key);
      assert.deepEqual(rows.slice(Number(index) * width, (Number(index) + 1) * width), want, key);
    }
    model.unmergeAdapter();
    assert.deepEqual(await readWeight(backend, base.parameter("model.embed_tokens.weight")), before);
  });

  test(`${name}: files are written back byte for byte; a new adapter's rows are the table's`, async (t) => {
    const backend = await testBackend(t);
    using model = await oracleModel(backend, expected.base_model);
    const folder = scratchFolder(t);
    const config = JSON.parse(readFileSync(join(adapterPath, "adapter_config.json"), "utf8"));
    {
      using loaded = await loadAdapter(model, adapterPath);
      await saveAdapter(loaded, folder);
      for (const file of ["adapter_model.safetensors", "adapter_config.json"]) {
        assert.ok(readFileSync(join(folder, file)).equals(readFileSync(join(adapterPath, file))), file);
      }
    }
    const before = await logitsOf(model, IDS);
    const constants = backend.memory().tensors.constant;
    {
      const { target_modules: targetModules, trainable_token_indices: trainableTokenIndices } = config;
      using adapter = await attachLora(model, { r: 4, targetModules, trainableTokenIndices });
      assert.deepEqual(await logitsOf(model, IDS), before);
      assert.equal(await hasEffect(adapter), false);
      const first = oracleTensors("peft_variants", name, "init", "adapter_model.safetensors");
      const rows = adapter.tensors.filter(({ kind }) => kind === "tokens");
      assert.ok(rows.length > 0);
      for (const { name: key, tensor } of rows) {
        assert.deepEqual(await readWeight(backend, tensor), oracleFloats(first, key), key);
        tensor.write(new Uint8Array(new Float32Array(tensor.bytes / 4).fill(0.3).buffer));
      }
      assert.equal(await hasEffect(adapter), true);
      const moved = await logitsOf(model, IDS);
      assert.notDeepEqual(moved, before);
      const frozen = await FrozenAdapter.of(adapter);
      rows[0]!.tensor.write(new Uint8Array(rows[0]!.tensor.bytes));
      model.adapter = frozen;
      assert.deepEqual(await logitsOf(model, IDS), moved);
      frozen.dispose();
      model.adapter = adapter;
    }
    assert.equal(backend.memory().tensors.constant, constants);
  });
}

test("only the rows change in training, and the tokens' alone", async (t) => {
  const backend = await testBackend(t);
  const base = await oracleModel(backend, "families/qwen2/model");
  using model = await getPeftModel(base, { r: 2, targetModules: ["q_proj"], trainableTokenIndices: [5, 90] });
  const rows = model.adapter.tensors.find(({ kind }) => kind === "tokens")!.tensor;
  const before = await readWeight(backend, rows);
  const optimizer = new Optimizer(backend, model.trainable(), OPTIMIZER);
  const runner = new StepRunner({ model: base, optimizer, policy: { kind: "keep" }, maxPositions: 32 });
  await runner.train(oracleBatch({ input_ids: [IDS], labels: [IDS] }), 1, new Uint32Array(2));
  await optimizer.update(1e-2, 0);
  const after = await readWeight(backend, rows);
  const width = base.config.hiddenSize;
  assert.ok(relativeError(after.subarray(0, width), before.subarray(0, width)) > 1e-3);
  // The head's softmax reaches every token.
  assert.ok(relativeError(after.subarray(width), before.subarray(width)) > 1e-3);
  runner.dispose();
  optimizer.dispose();
});

test("tokens that cannot be are errors", async (t) => {
  const backend = await testBackend(t);
  const refused = async (model: CausalLM, options: Record<string, unknown>, message: RegExp): Promise<void> => {
    await assert.rejects(attachLora(model, { targetModules: ["q_proj"], ...options }), message);
    assert.equal(model.adapter, null);
  };
  using tied = await oracleModel(backend, "families/qwen2/model");
  using untied = await oracleModel(backend, "families/llama/model");
  const { adapter } = backend.memory().tensors;
  await refused(untied, { trainableTokenIndices: [9, 9] }, /expected every token once/);
  await refused(untied, { trainableTokenIndices: [-1] }, /expected a token id/);
  await refused(untied, { trainableTokenIndices: [1_000_000] }, /and no token 1000000/);
  await refused(untied, { trainableTokenIndices: { wte: [1] } }, /"wte" is no table of tokens/);
  const twice = { embed_tokens: [1], "model.embed_tokens": [2] };
  await refused(untied, { trainableTokenIndices: twice }, /"model.embed_tokens" is there already, under another name/);
  await refused(
    untied,
    { trainableTokenIndices: [1], modulesToSave: ["embed_tokens"] },
    /embed_tokens is in targetModules/,
  );
  await refused(tied, { trainableTokenIndices: { lm_head: [1] } }, /name embed_tokens, which trains both/);
  await refused(tied, { trainableTokenIndices: { lm_head: [1], embed_tokens: [2] } }, /give both the same tokens/);
  await refused(tied, { trainableTokenIndices: [1], modulesToSave: ["lm_head"] }, /lm_head is in targetModules/);
  await refused(
    tied,
    { peftType: "ADALORA", trainableTokenIndices: [1] },
    /AdaLoRA does not support trainableTokenIndices/,
  );
  using both = await attachLora(tied, { trainableTokenIndices: { lm_head: [1, 2], embed_tokens: [1, 2] } });
  assert.equal(both.tensors.filter(({ kind }) => kind === "tokens").length, 1);
  both.dispose();
  using none = await attachLora(tied, { trainableTokenIndices: [] });
  none.dispose();
  assert.equal(backend.memory().tensors.adapter, adapter);
});
