import assert from "node:assert/strict";
import { test } from "node:test";
import { ConfigError } from "../config.ts";
import type { CausalLM } from "../model.ts";
import { familyModel, readJson, testBackend } from "./checkpoint.test.support.ts";
import { createRandomModel } from "./random.ts";

const numbers = async (model: CausalLM, name: string) => model.backend.dequantize(model.parameter(name));

test("matrices are normal with the configuration's deviation, norms the identity, biases zero", async (t) => {
  const backend = await testBackend(t);
  const config = { ...readJson(familyModel("qwen2")), hidden_size: 128, initializer_range: 0.05 };
  using model = await createRandomModel({ config, backend, seed: 3 });
  const up = await numbers(model, "model.layers.0.mlp.up_proj.weight");
  const mean = up.reduce((sum, v) => sum + v, 0) / up.length;
  const variance = up.reduce((sum, v) => sum + (v - mean) ** 2, 0) / up.length;
  // 88·128 numbers: four standard errors.
  assert.ok(Math.abs(mean) < (4 * 0.05) / Math.sqrt(up.length), `mean ${mean}`);
  assert.ok(Math.abs(Math.sqrt(variance) / 0.05 - 1) < 4 / Math.sqrt(2 * up.length), `variance ${variance}`);
  assert.ok((await numbers(model, "model.norm.weight")).every((v) => v === 1));
  assert.ok((await numbers(model, "model.layers.1.self_attn.k_proj.bias")).every((v) => v === 0));
  const embedding = await numbers(model, "model.embed_tokens.weight");
  assert.ok(
    embedding.subarray(0, 128).every((v) => v === 0),
    "the padding token's vector",
  );
  assert.ok(embedding.subarray(128).every((v) => v !== 0));
});

test("Gemma's norms are zero, to which one is added", async (t) => {
  using model = await createRandomModel({ config: readJson(familyModel("gemma2")), backend: await testBackend(t) });
  assert.ok((await numbers(model, "model.norm.weight")).every((v) => v === 0));
});

test("the same seed gives the same numbers, in every storage", async (t) => {
  const backend = await testBackend(t);
  const config = readJson(familyModel("llama"));
  const name = "model.layers.1.mlp.down_proj.weight";
  using model = await createRandomModel({ config, backend, seed: 7 });
  using again = await createRandomModel({ config, backend, seed: 7 });
  using other = await createRandomModel({ config, backend, seed: 8 });
  using bf16 = await createRandomModel({ config, backend, seed: 7, dtype: "bfloat16" });
  using nf4 = await createRandomModel({ config, backend, seed: 7, loadIn4bit: true, initializerRange: 0.02 });
  const want = await numbers(model, name);
  assert.deepEqual(await numbers(again, name), want);
  assert.notDeepEqual(await numbers(other, name), want);
  assert.equal(bf16.parameter(name).dtype, "bf16");
  (await numbers(bf16, name)).forEach((v, i) => assert.ok(Math.abs(v - want[i]!) <= 2 ** -8 * Math.abs(want[i]!)));
  assert.equal(nf4.parameter(name).dtype, "nf4");
  const absmax = want.reduce((max, v) => Math.max(max, Math.abs(v)), 0);
  (await numbers(nf4, name)).forEach((v, i) => assert.ok(Math.abs(v - want[i]!) <= 0.16 * absmax));
});

test("what cannot be", async (t) => {
  const backend = await testBackend(t);
  const config = readJson(familyModel("llama"));
  const refusals: [Parameters<typeof createRandomModel>[0], RegExp][] = [
    [{ config, backend, initializerRange: Number.NaN }, /initializerRange: found NaN/],
    [{ config: { ...config, hidden_size: 0 }, backend }, /config: hidden_size: /],
    [{ config: { ...config, initializer_range: "wide" }, backend }, /initializerRange: found wide/],
  ];
  for (const [options, message] of refusals) {
    await assert.rejects(createRandomModel(options), (error) => {
      assert.ok(error instanceof ConfigError, `${error}`);
      assert.match(error.message, message);
      return true;
    });
  }
  const large = { ...config, hidden_size: 2 ** 14, intermediate_size: 2 ** 16, num_hidden_layers: 100 };
  await assert.rejects(createRandomModel({ config: large, backend }), /a new model: its weights need .* is available/);
});
