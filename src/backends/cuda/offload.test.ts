import assert from "node:assert/strict";
import { test } from "node:test";
import type { CheckpointPolicy } from "../../graph/plan.ts";
import { loadModel } from "../../models/load/load.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { PeftModel } from "../../peft/index.ts";
import { oracleJson, oraclePath } from "../../testing/oracle.ts";
import { type OracleBatch, oracleBatch } from "../../testing/oracle-batch.ts";
import { StepRunner } from "../../train/step.ts";
import { gpu, skip } from "./gpu.test.support.ts";

/** Gradients of four microbatches: the first enqueued launch by launch, the others replayed from graphs. */
async function gradients(policy: CheckpointPolicy, offload: boolean): Promise<{ bytes: Buffer[]; copies: number }> {
  const { batch } = oracleJson<{ batch: OracleBatch }>("families", "llama", "expect.json");
  const backend = gpu("bf16");
  backend.poison = true;
  const base = await loadModel({ path: oraclePath("families", "llama", "model"), backend });
  using model = await PeftModel.fromPretrained(base, oraclePath("families", "llama", "adapter"), { isTrainable: true });
  const options = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
  const optimizer = new Optimizer(backend, model.trainable(), options);
  const runner = new StepRunner({ model: base, optimizer, policy, offload, maxPositions: 32 });
  const data = oracleBatch(batch);
  for (let i = 0; i < 4; i++) await runner.train(data, 1 / 64, new Uint32Array(2));
  const reads = optimizer.trainables.map(async (t) => Buffer.from(await optimizer.gradient(t).read()));
  const bytes = await Promise.all(reads);
  const copies = runner
    .program("train", data.inputIds.length)
    .steps.filter(({ op }) => op.name === "offload" || op.name === "fetch").length;
  runner.dispose();
  optimizer.dispose();
  backend.poison = false;
  return { bytes, copies };
}

/** How many bytes differ; comparing arrays of them would print each. */
const differing = (a: readonly Buffer[], b: readonly Buffer[]): number =>
  a.reduce((sum, tensor, i) => sum + tensor.reduce((n, byte, at) => n + (byte === b[i]![at] ? 0 : 1), 0), 0);

for (const kind of ["recompute", "minimum"] as const) {
  test(`activations copied to the host and back beside arithmetic change no bit of the gradients (CUDA, ${kind})`, {
    skip,
  }, async () => {
    const here = await gradients({ kind }, false);
    const offloaded = await gradients({ kind }, true);
    assert.equal(here.copies, 0);
    assert.ok(offloaded.copies >= 4, `${offloaded.copies} copies`);
    assert.ok(here.bytes.some((tensor) => tensor.some((byte) => byte !== 0)));
    assert.equal(differing(offloaded.bytes, here.bytes), 0);
  });
}

test("recomputing changes no bit of the gradients (CUDA)", { skip }, async () => {
  const [kept, recomputed] = [await gradients({ kind: "keep" }, false), await gradients({ kind: "recompute" }, false)];
  assert.equal(differing(recomputed.bytes, kept.bytes), 0);
});
