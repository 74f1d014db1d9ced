import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { relativeError } from "../testing/kernels.ts";
import {
  inFolder,
  openBackend,
  quietTrainer,
  randomRow,
  randomRows,
  source,
  tinyPeft,
  trainedBytes,
  withoutSpeed,
} from "./tiny-training.test.support.ts";

const VARIANTS = {
  dora: { useDora: true, loraDropout: 0.1 },
  pissa: { initLoraWeights: "pissa" },
  olora: { initLoraWeights: "olora", useDora: true },
  orthogonal: { initLoraWeights: "orthogonal" },
} as const;

for (const [name, options] of Object.entries(VARIANTS)) {
  test(`${name}: a stopped training resumes bit for bit`, async () => {
    using backend = await openBackend();
    const rows = randomRows(12);
    const run = async (outputDir: string, args: object, resumeFromCheckpoint: string | null = null) => {
      using model = await tinyPeft(backend, options);
      const all = { maxSteps: 6, outputDir, perDeviceTrainBatchSize: 2, saveStrategy: "steps", ...args };
      using trainer = quietTrainer(model, { train: source(rows), args: all });
      await trainer.train({ resumeFromCheckpoint });
      return { bytes: await trainedBytes(trainer), history: withoutSpeed(trainer.state.logHistory) };
    };
    await inFolder(async (folder) => {
      const whole = await run(join(folder, "whole"), { saveSteps: 3 });
      const checkpoint = join(folder, "whole", "checkpoint-3");
      // Only what is saved in another form needs a file of its own.
      const raw = existsSync(join(checkpoint, "adapter_state.safetensors"));
      assert.equal(raw, name === "pissa" || name === "olora");
      const rest = await run(join(folder, "rest"), { saveSteps: 100 }, checkpoint);
      assert.deepEqual(rest.bytes, whole.bytes);
      assert.deepEqual(rest.history, whole.history);
    });
  });

  test(`${name}: accumulating microbatches gives what one batch gives`, async () => {
    using backend = await openBackend();
    const rows = Array.from({ length: 8 }, (_, i) => [randomRow(9, 40 + i)]);
    const run = async (args: object) => {
      using model = await tinyPeft(backend, { ...options, loraDropout: 0 });
      const all = { maxSteps: 4, learningRate: 1e-3, ...args };
      using trainer = quietTrainer(model, { train: source(rows), args: all });
      await trainer.train();
      return await trainedBytes(trainer);
    };
    const whole = await run({ perDeviceTrainBatchSize: 2 });
    const parts = await run({ perDeviceTrainBatchSize: 1, gradientAccumulationSteps: 2 });
    for (const [key, bytes] of whole) {
      const [got, want] = [parts.get(key)!, bytes].map((raw) => new Float32Array(Uint8Array.from(raw).buffer));
      assert.ok(relativeError(got!, want!) < 1e-5, `${key}: ${relativeError(got!, want!)}`);
    }
  });
}
