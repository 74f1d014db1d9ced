import assert from "node:assert/strict";
import { test } from "node:test";
import type { Batch } from "../data/index.ts";
import { loadModel } from "../models/load/load.ts";
import { PeftModel } from "../peft/index.ts";
import { relativeError } from "../testing/kernels.ts";
import { oracleFloats, oracleJson, oraclePath, oracleTensors } from "../testing/oracle.ts";
import { type OracleBatch, oracleBatch } from "../testing/oracle-batch.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import { OptionError } from "../util/options.ts";
import { openBackend, quietTrainer, randomRows, source, tinyPeft } from "./tiny-training.test.support.ts";

interface Expectation {
  readonly base_model: string;
  readonly adam_epsilon: number;
  readonly steps: ({ loss: number; grad_norm: number } & OracleBatch)[];
}

const PLUS = { loraplusLrRatio: 8, loraplusLrEmbedding: 5e-3 };
const CASES: Record<string, Record<string, unknown>> = {
  loraplus: PLUS,
  loraplus_dora: PLUS,
  embedding_rate: { embedding_learning_rate: 5e-4 },
};

for (const [name, options] of Object.entries(CASES)) {
  test(`${name}: ten steps follow torch's AdamW with PEFT's and Unsloth's groups`, async (t) => {
    using backend = await openBackend();
    const expected = oracleJson<Expectation>("peft_variants", name, "expect.json");
    const base = await loadModel({ path: oraclePath(expected.base_model), backend });
    const folder = oraclePath("peft_variants", name, "adapter_init");
    using model = await PeftModel.fromPretrained(base, folder, { isTrainable: true });
    const batches = expected.steps.map(oracleBatch);
    using trainer = quietTrainer(model, {
      train: { length: batches.length, batches: (): Batch[] => batches },
      args: {
        maxSteps: batches.length,
        perDeviceTrainBatchSize: 1,
        learningRate: 2e-3,
        weightDecay: 0.05,
        warmupSteps: 2,
        adamEpsilon: expected.adam_epsilon,
        ...options,
      },
    });
    await trainer.train();
    const rows = trainer.state.logHistory.filter((row) => row.loss !== undefined);
    expected.steps.forEach((step, i) => {
      assert.ok(Math.abs(rows[i]!.loss! / step.loss - 1) <= 1e-5, `step ${i}: ${rows[i]!.loss}, not ${step.loss}`);
      assert.ok(Math.abs(rows[i]!.grad_norm! / step.grad_norm - 1) <= 1e-5, `step ${i}: norm`);
    });
    const final = oracleTensors("peft_variants", name, "adapter_final", "adapter_model.safetensors");
    let worst = 0;
    for (const { name: key, tensor } of trainer.optimizer.trainables) {
      const error = relativeError(
        new Float32Array((await tensor.read()).buffer as ArrayBuffer),
        oracleFloats(final, key),
      );
      assert.ok(error <= 1e-4, `${key}: relative error ${error}`);
      worst = Math.max(worst, error);
    }
    t.diagnostic(`largest relative error of a trained tensor: ${worst.toExponential(1)}`);
  });
}

test("rates that fit nothing are errors", async () => {
  using backend = await openBackend();
  const train = source(randomRows(4));
  const refused = (model: Parameters<typeof quietTrainer>[0], args: Record<string, unknown>, message: RegExp) =>
    assert.throws(
      () => quietTrainer(model, { train, args }),
      (error) => error instanceof OptionError && message.test(error.message),
    );
  using peft = await tinyPeft(backend);
  refused(peft, { embeddingLearningRate: 1e-5 }, /embeddingLearningRate is for modules trained in full/);
  refused(peft, { loraplusLrRatio: 0 }, /loraplusLrRatio: .*found 0/);
  using whole = tinyModel(backend);
  refused(whole, { loraplusLrRatio: 16 }, /loraplusLrRatio is for LoRA adapters/);
  using full = await tinyPeft(backend, { modulesToSave: ["embed_tokens"] });
  refused(full, { embeddingLearningRate: 1e-5, learningRate: 0 }, /embeddingLearningRate needs a learningRate above 0/);
});
