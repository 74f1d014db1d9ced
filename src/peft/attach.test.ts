import assert from "node:assert/strict";
import { test } from "node:test";
import { attachLora } from "./attach.ts";
import { assertClose, logitsOf, oracleModel, testBackend } from "./peft.test.support.ts";
import { readWeight } from "./weights.ts";

const IDS = [1, 40, 7, 22, 85, 3];

test("a new adapter changes nothing until it is trained", async (t) => {
  const backend = await testBackend(t);
  for (const family of ["llama", "qwen2"]) {
    using model = await oracleModel(backend, `families/${family}/model`);
    const before = await logitsOf(model, IDS);
    using adapter = await attachLora(model, {
      targetModules: ["embed_tokens", "q_proj", "down_proj", "lm_head"],
      modulesToSave: ["norm"],
      bias: "all",
    });
    assert.equal(model.adapter, adapter);
    assertClose(await logitsOf(model, IDS), before, 0, family);
  }
});

test("initLoraWeights: false changes the output at once, with the same values for the same seed", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/llama/model");
  const before = await logitsOf(model, IDS);
  const run = async (randomState: number): Promise<Float32Array> => {
    using _adapter = await attachLora(model, { targetModules: "all-linear", initLoraWeights: false, randomState });
    return await logitsOf(model, IDS);
  };
  const first = await run(1);
  assert.notDeepEqual(first, before);
  assert.deepEqual(await run(1), first);
  assert.notDeepEqual(await run(2), first);
  assertClose(await logitsOf(model, IDS), before, 0, "disposing takes the adapter off");
});

test("what is trained has PEFT's names, and no decay on biases and norms", async (t) => {
  using model = await oracleModel(await testBackend(t), "families/qwen2/model");
  using adapter = await attachLora(model, {
    r: 2,
    targetModules: ["layers.0.self_attn.q_proj"],
    modulesToSave: ["model.norm", "embed_tokens"],
    bias: "all",
    ensureWeightTying: true,
  });
  const biases = ["0.self_attn.q_proj.base_layer", "0.self_attn.k_proj", "0.self_attn.v_proj"].concat(
    ["q", "k", "v"].map((x) => `1.self_attn.${x}_proj`),
  );
  assert.deepEqual(
    adapter.trainable().map(({ name, tensor, decay, embedding }) => [name, tensor.shape, decay, embedding]),
    [
      ["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", [2, 40], true, false],
      ["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", [40, 2], true, false],
      ["base_model.model.model.embed_tokens.weight", [107, 40], true, true],
      ["base_model.model.model.norm.weight", [40], false, false],
      ...biases.map((path) => [
        `base_model.model.model.layers.${path}.bias`,
        [path.includes("q_proj") ? 40 : 20],
        false,
        false,
      ]),
    ],
  );
  for (const { tensor } of adapter.tensors) {
    assert.equal(tensor.dtype, "f32");
    assert.equal(tensor.role, "adapter");
  }
});

test("copies of 16-bit and 4-bit modules hold the decoded numbers", async (t) => {
  const backend = await testBackend(t);
  for (const options of [{ dtype: "float16" }, { loadIn4bit: true }] as const) {
    using model = await oracleModel(backend, "families/llama/model", options);
    using adapter = await attachLora(model, { targetModules: ["q_proj"], modulesToSave: ["mlp", "lm_head"] });
    for (const name of ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"]) {
      const copy = adapter.replacement(name)!;
      assert.equal(copy.dtype, "f32");
      assert.deepEqual(await readWeight(backend, copy), await backend.dequantize(model.parameter(name)), name);
    }
    const before = await logitsOf(model, IDS);
    model.adapter = null;
    assertClose(before, await logitsOf(model, IDS), 0);
  }
});

test("a tied head is warned of, or trained as one with the embeddings", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/llama3/model");
  const warningsOf = async (options: Record<string, unknown>): Promise<readonly string[]> => {
    using adapter = await attachLora(model, { targetModules: ["q_proj"], ...options });
    return adapter.warnings;
  };
  assert.deepEqual(await warningsOf({}), []);
  const [warning] = await warningsOf({ modulesToSave: ["lm_head"] });
  assert.match(warning!, /the model's head is its embedding table, and lm_head .* ensureWeightTying: true/);
  assert.deepEqual(await warningsOf({ modulesToSave: ["lm_head"], ensureWeightTying: true }), []);
  await assert.rejects(
    attachLora(model, { targetModules: ["embed_tokens"], ensureWeightTying: true }),
    /ensureWeightTying is not supported yet with model.embed_tokens in targetModules/,
  );

  using adapter = await attachLora(model, {
    targetModules: ["q_proj"],
    modulesToSave: ["lm_head"],
    ensureWeightTying: true,
  });
  assert.equal(adapter.replacement("lm_head.weight"), adapter.replacement("model.embed_tokens.weight"));
});

test("a second adapter and a wrong configuration are refused, and leave nothing behind", async (t) => {
  const backend = await testBackend(t);
  using model = await oracleModel(backend, "families/llama/model");
  await assert.rejects(
    attachLora(model, { targetModules: ["qkv"] }),
    /LoraConfig: targetModules: the model has no module/,
  );
  assert.equal(model.adapter, null);
  assert.equal(backend.memory().tensors.adapter, 0);
  using _adapter = await attachLora(model, { inferenceMode: true });
  assert.deepEqual(_adapter.trainable(), []);
  assert.equal(_adapter.parameterCount().trainable, 0);
  await assert.rejects(attachLora(model), /already has an adapter/);
});
