import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Batch } from "../../data/index.ts";
import { loadModel } from "../../models/load/load.ts";
import { PeftModel } from "../../peft/index.ts";
import { relativeError } from "../../testing/kernels.ts";
import { oracleFloats, oracleJson, oraclePath, oracleTensors } from "../../testing/oracle.ts";
import { type OracleBatch, oracleBatch } from "../../testing/oracle-batch.ts";
import { inFolder, openBackend, quietTrainer } from "../tiny-training.test.support.ts";

interface Step extends OracleBatch {
  readonly loss: number;
  readonly grad_norm: number;
  readonly rank_pattern: Record<string, boolean[]> | null;
}

interface Expectation {
  readonly base_model: string;
  readonly lr: number;
  readonly weight_decay: number;
  readonly max_grad_norm: number;
  readonly steps: Step[];
}

for (const name of ["adalora", "adalora_to_the_end"]) {
  test(`${name}: losses, norms, E, rank patterns and the saved adapter follow PEFT's 20 steps`, async (t) => {
    using backend = await openBackend();
    backend.poison = true;
    const expected = oracleJson<Expectation>("peft_variants", name, "expect.json");
    const tensors = oracleTensors("peft_variants", name, "expect.safetensors");
    const base = await loadModel({ path: oraclePath(expected.base_model), backend });
    const init = oraclePath("peft_variants", name, "adapter_init");
    using model = await PeftModel.fromPretrained(base, init, { isTrainable: true });
    const { adalora } = model.adapter;
    const batches = expected.steps.map(oracleBatch);
    const float32 = async (tensor: { read(): Promise<Uint8Array> }) =>
      new Float32Array((await tensor.read()).buffer as ArrayBuffer);
    let worstE = 0;
    using trainer = quietTrainer(model, {
      train: { length: batches.length, batches: (): Batch[] => batches },
      args: {
        maxSteps: batches.length,
        perDeviceTrainBatchSize: 1,
        learningRate: expected.lr,
        weightDecay: expected.weight_decay,
        maxGradNorm: expected.max_grad_norm,
      },
      callbacks: [
        {
          async onOptimizerStep({ state, optimizer }) {
            const step = state.globalStep;
            assert.deepEqual(adalora!.rankPattern(), expected.steps[step]!.rank_pattern, `ranks of step ${step}`);
            for (const { name: key, tensor } of optimizer.trainables.filter((one) => one.name.endsWith("lora_E"))) {
              const want = oracleFloats(tensors, `${step}.${key}`);
              const got = await float32(tensor);
              assert.deepEqual(
                [...got].map((e) => e === 0),
                [...want].map((e) => e === 0),
                `${key}, step ${step}`,
              );
              if (want.every((e) => e === 0)) continue;
              const error = relativeError(got, want);
              assert.ok(error <= 1e-4, `${key}, step ${step}: relative error ${error}`);
              worstE = Math.max(worstE, error);
            }
          },
        },
      ],
    });
    await trainer.train();
    const rows = trainer.state.logHistory.filter((row) => row.loss !== undefined);
    let worstLoss = 0;
    expected.steps.forEach((step, i) => {
      const error = Math.abs(rows[i]!.loss! / step.loss - 1);
      assert.ok(error <= 1e-4, `step ${i}: loss ${rows[i]!.loss}, expected ${step.loss}`);
      assert.ok(Math.abs(rows[i]!.grad_norm! / step.grad_norm - 1) <= 1e-4, `step ${i}: norm`);
      worstLoss = Math.max(worstLoss, error);
    });
    await inFolder(async (folder) => {
      await model.savePretrained(folder);
      const saved = (file: string) => readFileSync(join(folder, file));
      const theirs = oraclePath("peft_variants", name, "adapter_final");
      assert.ok(
        saved("adapter_config.json").equals(readFileSync(join(theirs, "adapter_config.json"))),
        "configuration",
      );
      using again = await PeftModel.fromPretrained(
        await loadModel({ path: oraclePath(expected.base_model), backend }),
        folder,
      );
      const final = oracleTensors("peft_variants", name, "adapter_final", "adapter_model.safetensors");
      let count = 0;
      for (const { name: key, tensor } of again.adapter.tensors) {
        const error = relativeError(await float32(tensor), oracleFloats(final, key));
        assert.ok(error <= 1e-4, `${key}: relative error ${error}`);
        count++;
      }
      const filled = [...final.values()].filter(({ data }) => data.length > 0).length;
      assert.equal(count, filled);
    });
    t.diagnostic(`largest relative errors: loss ${worstLoss.toExponential(1)}, E ${worstE.toExponential(1)}`);
  });
}
