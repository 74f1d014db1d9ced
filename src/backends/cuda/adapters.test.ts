import assert from "node:assert/strict";
import { test } from "node:test";
import { collate } from "../../data/index.ts";
import type { FloatDType } from "../../graph/types.ts";
import { loadModel } from "../../models/load/load.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { getPeftModel, PeftModel } from "../../peft/index.ts";
import { relativeError } from "../../testing/kernels.ts";
import { oracleFloats, oracleJson, oraclePath, oracleTensors } from "../../testing/oracle.ts";
import { type OracleBatch, oracleBatch } from "../../testing/oracle-batch.ts";
import { tinyModel } from "../../testing/tiny-model.ts";
import { StepRunner } from "../../train/step.ts";
import { quietTrainer, randomRow } from "../../train/tiny-training.test.support.ts";
import { CollectingBackend, NotRun } from "./collect.test.support.ts";
import { gpu, skip, skipOf } from "./gpu.test.support.ts";

const ADAM = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };

for (const dtype of ["f32", "bf16", "f16"] as const) {
  test(`programs of DoRA, AdaLoRA and token rows are made of what CUDA has, activations in ${dtype}`, async () => {
    const backend = new CollectingBackend(dtype, dtype === "f32" ? 75 : 80);
    const batch = collate([[randomRow(9, 1)]]);
    for (const options of [
      { useDora: true, r: 4, loraDropout: 0.1, modulesToSave: ["embed_tokens"] },
      { peftType: "ADALORA", initR: 4, targetR: 2, loraDropout: 0.1, modulesToSave: ["embed_tokens"] },
      { r: 4, trainableTokenIndices: [3, 7, 9] },
    ]) {
      const model = tinyModel(backend, "qwen2", { num_hidden_layers: 1 });
      const peft = await getPeftModel(model, options);
      const optimizer = new Optimizer(backend, peft.trainable(), ADAM);
      const runner = new StepRunner({ model, optimizer, policy: { kind: "keep" }, maxPositions: 16 });
      await assert.rejects(runner.train(batch, 1, new Uint32Array(2)), NotRun);
      const { method } = quietTrainer(peft, {
        train: { length: 1, batches: () => [batch] },
        args: { maxSteps: 5 },
      });
      if (method) await assert.rejects(method.beforeUpdate(1), NotRun);
    }
    assert.ok(backend.launches.size > 20);
  });
}

interface Expected {
  readonly base_model: string;
  readonly batch: OracleBatch;
  readonly loss: number;
  readonly target_tokens: number;
}

for (const name of ["dora_llama", "dora_qwen2", "dora_nf4", "dora_embedding", "tokens_untied", "tokens_tied"]) {
  for (const [dtype, tolerance] of [
    ["f32", 2e-4],
    ["bf16", 0.25],
  ] as readonly (readonly [FloatDType, number])[]) {
    test(`${name}: loss and gradients are PEFT's (CUDA, ${dtype})`, { skip: skipOf(dtype) }, async () => {
      const backend = gpu(dtype);
      backend.poison = true;
      const expected = oracleJson<Expected>("peft_variants", name, "expect.json");
      const tensors = oracleTensors("peft_variants", name, "expect.safetensors");
      const base = await loadModel({ path: oraclePath(expected.base_model), backend });
      const adapter = oraclePath("peft_variants", name, "adapter");
      using model = await PeftModel.fromPretrained(base, adapter, { isTrainable: true });
      const optimizer = new Optimizer(backend, model.trainable(), ADAM);
      const runner = new StepRunner({ model: base, optimizer, policy: { kind: "recompute" }, maxPositions: 32 });
      const { loss } = await runner.train(oracleBatch(expected.batch), 1 / expected.target_tokens, new Uint32Array(2));
      assert.ok(Math.abs(loss / expected.loss - 1) <= (dtype === "f32" ? 1e-5 : 3e-2), `${loss}, not ${expected.loss}`);
      let [difference, total] = [0, 0];
      for (const trainable of optimizer.trainables) {
        const got = new Float32Array((await optimizer.gradient(trainable).read()).buffer as ArrayBuffer);
        oracleFloats(tensors, `grad.${trainable.name}`).forEach((want, i) => {
          difference += (got[i]! - want) ** 2;
          total += want ** 2;
        });
      }
      assert.ok(Math.sqrt(difference / total) <= tolerance, `gradients off by ${Math.sqrt(difference / total)}`);
      runner.dispose();
      optimizer.dispose();
    });
  }
}

test("AdaLoRA's ranks, E and losses follow PEFT's 20 steps (CUDA, f32)", { skip }, async () => {
  const backend = gpu("f32");
  interface Step extends OracleBatch {
    readonly loss: number;
    readonly rank_pattern: Record<string, boolean[]> | null;
  }
  const expected = oracleJson<{ base_model: string; steps: Step[] }>("peft_variants", "adalora", "expect.json");
  const tensors = oracleTensors("peft_variants", "adalora", "expect.safetensors");
  const base = await loadModel({ path: oraclePath(expected.base_model), backend });
  const init = oraclePath("peft_variants", "adalora", "adapter_init");
  using model = await PeftModel.fromPretrained(base, init, { isTrainable: true });
  const batches = expected.steps.map(oracleBatch);
  using trainer = quietTrainer(model, {
    train: { length: batches.length, batches: () => batches },
    args: { maxSteps: batches.length, perDeviceTrainBatchSize: 1, learningRate: 2e-2, weightDecay: 0.01 },
    callbacks: [
      {
        onOptimizerStep({ state }) {
          assert.deepEqual(model.adapter.adalora!.rankPattern(), expected.steps[state.globalStep]!.rank_pattern);
        },
      },
    ],
  });
  await trainer.train();
  const losses = trainer.state.logHistory.flatMap(({ loss }) => (loss === undefined ? [] : [loss]));
  expected.steps.forEach(({ loss }, i) =>
    assert.ok(Math.abs(losses[i]! / loss - 1) <= 1e-3, `step ${i}: ${losses[i]}`),
  );
  for (const { name, tensor } of trainer.optimizer.trainables.filter((one) => one.name.endsWith("lora_E"))) {
    const want = oracleFloats(tensors, `19.${name}`);
    const got = new Float32Array((await tensor.read()).buffer as ArrayBuffer);
    assert.deepEqual(
      [...got].map((e) => e === 0),
      [...want].map((e) => e === 0),
    );
    if (want.some((e) => e !== 0)) assert.ok(relativeError(got, want) <= 1e-3, name);
  }
});
