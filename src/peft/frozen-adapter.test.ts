import assert from "node:assert/strict";
import { test } from "node:test";
import type { LoraAdapter } from "./adapter.ts";
import { createLora } from "./attach.ts";
import { FrozenAdapter, hasEffect } from "./frozen-adapter.ts";
import { logitsOf, oracleModel, testBackend } from "./peft.test.support.ts";

const IDS = [1, 5, 9, 7, 30, 2];
const LORA = { r: 2, targetModules: ["q_proj", "down_proj"] };

/** Configurations whose adapters do nothing at first, by the tensor that changes this. */
const FRESH: readonly (readonly [string, RegExp, Record<string, unknown>])[] = [
  ["LoRA", /lora_B/, { ...LORA, loraDropout: 0.5 }],
  ["embeddings", /lora_embedding_A/, { ...LORA, targetModules: ["embed_tokens"] }],
  ["DoRA", /lora_B/, { ...LORA, useDora: true }],
  ["AdaLoRA", /lora_E/, { peftType: "ADALORA", initR: 3, targetR: 2, totalStep: 9, targetModules: ["q_proj"] }],
  ["PiSSA", /lora_A/, { ...LORA, initLoraWeights: "pissa" }],
  ["a module trained in full", /embed_tokens/, { ...LORA, modulesToSave: ["embed_tokens"] }],
  ["biases", /bias/, { ...LORA, bias: "all" }],
];

/** Adds 0.5 to every number of the tensors of that name. */
async function change({ tensors }: LoraAdapter, name: RegExp): Promise<void> {
  const changed = tensors.filter((one) => name.test(one.name));
  assert.ok(changed.length > 0);
  for (const { tensor } of changed) {
    const values = new Float32Array((await tensor.read()).buffer as ArrayBuffer);
    tensor.write(new Uint8Array(values.map((value) => value + 0.5).buffer));
  }
}

for (const [name, tensor, options] of FRESH) {
  test(`${name}: no effect at first; a frozen copy stays as it was`, async (t) => {
    const backend = await testBackend(t);
    using model = await oracleModel(backend, "families/qwen2/model");
    const before = await logitsOf(model, IDS);
    using adapter = await createLora(model, options);
    assert.equal(await hasEffect(adapter), false);
    await change(adapter, tensor);
    assert.equal(await hasEffect(adapter), true);
    // With B changed too, A and E have one.
    if (!/B|bias|embed/.test(String(tensor))) await change(adapter, /lora_B/);
    model.adapter = adapter;
    const then = await logitsOf(model, IDS);
    assert.notDeepEqual(then, before);
    const frozen = await FrozenAdapter.of(adapter);
    await change(adapter, tensor);
    assert.notDeepEqual(await logitsOf(model, IDS), then);
    model.adapter = frozen;
    assert.deepEqual(await logitsOf(model, IDS), then);
    const bytes = backend.memory().tensors.adapter;
    frozen.dispose();
    assert.ok(backend.memory().tensors.adapter < bytes);
    model.adapter = null;
  });
}

test("an adapter that begins with an effect, and copies are without dropout", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/llama/model");
  using adapter = await createLora(model, { ...LORA, initLoraWeights: false, loraDropout: 0.5 });
  assert.equal(await hasEffect(adapter), true);
  const frozen = await FrozenAdapter.of(adapter);
  assert.equal(frozen.lora("model.layers.0.self_attn.q_proj")!.dropout, 0);
  assert.equal(frozen.lora("model.layers.0.self_attn.k_proj"), undefined);
  frozen.dispose();
});
