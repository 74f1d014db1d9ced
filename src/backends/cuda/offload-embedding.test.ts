import assert from "node:assert/strict";
import { test } from "node:test";
import { loadModel } from "../../models/load/load.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { PeftModel } from "../../peft/index.ts";
import { oracleJson, oraclePath } from "../../testing/oracle.ts";
import { type OracleBatch, oracleBatch } from "../../testing/oracle-batch.ts";
import { StepRunner } from "../../train/step.ts";
import { gpu, skipBf16 as skip } from "./gpu.test.support.ts";

async function step(offloadEmbedding: boolean) {
  const { batch } = oracleJson<{ batch: OracleBatch }>("families", "llama", "expect.json");
  const backend = gpu("bf16");
  const before = backend.memory().tensors.weight;
  const base = await loadModel({ path: oraclePath("families", "llama", "model"), backend, offloadEmbedding });
  const weight = backend.memory().tensors.weight - before;
  using model = await PeftModel.fromPretrained(base, oraclePath("families", "llama", "adapter"), { isTrainable: true });
  const options = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
  const optimizer = new Optimizer(backend, model.trainable(), options);
  const runner = new StepRunner({ model: base, optimizer, policy: { kind: "keep" }, maxPositions: 32 });
  const { loss } = await runner.train(oracleBatch(batch), 1 / 64, new Uint32Array(2));
  const gradients = await Promise.all(optimizer.trainables.map((t) => optimizer.gradient(t).read()));
  const table = base.parameter("model.embed_tokens.weight");
  const row = (await table.read()).subarray(0, 64);
  runner.dispose();
  optimizer.dispose();
  return { weight, loss, gradients, row, tableBytes: table.bytes };
}

test("embeddings in host memory: the same step to the bit, and their bytes gone from the card (CUDA)", {
  skip,
}, async () => {
  const [here, there] = [await step(false), await step(true)];
  assert.equal(here.weight - there.weight, here.tableBytes);
  assert.ok(here.row.some((byte) => byte !== 0));
  assert.deepEqual(there.row, here.row);
  assert.equal(there.loss, here.loss);
  assert.deepEqual(there.gradients, here.gradients);
});
