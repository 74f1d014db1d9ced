import assert from "node:assert/strict";
import { test } from "node:test";
import { numel } from "../../graph/types.ts";
import { parseConfig } from "../family.ts";
import { parameterSpecs } from "../parameters.ts";
import type { DenseWeight } from "./source.ts";
import { planStorage } from "./storage.ts";

const CONFIG = {
  model_type: "llama",
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 2,
};

const weights = (tied: boolean) =>
  parameterSpecs(parseConfig({ ...CONFIG, tie_word_embeddings: tied }, "config.json").decoder).map((spec) => {
    const { name, shape } = spec;
    const read = () => assert.fail("nothing is read to decide");
    const weight: DenseWeight = {
      kind: "dense",
      name,
      dtype: "bf16",
      decoded: false,
      shape,
      fileBytes: 2 * numel(shape),
      read,
    };
    return { spec, weight };
  });

test("offloadEmbedding puts the table of input embeddings into host memory, and nothing else", () => {
  for (const loadIn4bit of [false, true]) {
    const stored = planStorage(weights(false), { loadIn4bit, offloadEmbedding: true });
    const inHost = stored.filter(({ host }) => host).map(({ spec }) => spec.name);
    assert.deepEqual(inHost, ["model.embed_tokens.weight"]);
  }
  assert.ok(planStorage(weights(false), {}).every(({ host }) => !host));
});

test("offloadEmbedding is refused where the head is the same table, and where the table is trained", () => {
  assert.throws(() => planStorage(weights(true), { offloadEmbedding: true }), {
    name: "ConfigError",
    message: /this model's output head is its embedding table.*leave offloadEmbedding out/,
  });
  assert.throws(() => planStorage(weights(false), { fullFinetuning: true, offloadEmbedding: true }), {
    name: "ConfigError",
    message: /fullFinetuning trains them: give one of them/,
  });
});
