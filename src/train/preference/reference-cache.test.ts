import assert from "node:assert/strict";
import { test } from "node:test";
import { getPeftModel, type PeftModel } from "../../peft/index.ts";
import { tinyModel } from "../../testing/tiny-model.ts";
import { openBackend } from "../tiny-training.test.support.ts";
import { referenceKey } from "./reference-cache.ts";

const withRank = async (r: number, about: object): Promise<PeftModel> => {
  const backend = Object.assign(await openBackend(), about);
  return getPeftModel(tinyModel(backend, "llama", { num_hidden_layers: 1 }), { r, targetModules: ["q_proj"] });
};

/** The name of the numbers of the model without its adapter. */
async function keyOf(r: number, about: object): Promise<string> {
  using model = await withRank(r, about);
  return await referenceKey({ lm: model.model, scorer: { kind: "adapter", adapter: null }, rows: [], settings: {} });
}

test("numbers that are rounded otherwise go by another name", async () => {
  const plain = await keyOf(2, {});
  assert.equal(await keyOf(2, {}), plain);
  // In 32 bits the model without its adapter is the same whatever the adapter; in 16 its products are muted, not left out.
  assert.equal(await keyOf(3, {}), plain);
  const half = await keyOf(2, { computeDtype: "bf16" });
  assert.notEqual(half, plain);
  assert.notEqual(await keyOf(3, { computeDtype: "bf16" }), half);
  assert.notEqual(await keyOf(2, { computeDtype: "bf16", fp8: true }), half);
});
