import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { rename, truncate } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { getPeftModel, PeftModel } from "../../peft/index.ts";
import { inFolder, trainedBytes, withoutSpeed } from "../tiny-training.test.support.ts";
import { backend, baseModel, data, policyModel, trainerOf } from "./parity.test.support.ts";

const REFERENCE = "reference.safetensors";

interface Run {
  readonly model: PeftModel;
  readonly options?: Record<string, unknown>;
  /** Evaluate before training, which is when the reference is first needed. */
  readonly evaluates?: boolean;
  /** Checkpoints that training fails to resume from before it begins anew. */
  readonly resumesInVain?: readonly string[];
  /** Plan a step's program before training. */
  readonly plans?: boolean;
  readonly stopAt?: number;
}

/** Trains a model, which is freed. */
async function run(
  trainer: "dpo" | "kto",
  { model: policy, options = {}, evaluates, resumesInVain, plans, stopAt }: Run,
) {
  using model = policy;
  const single = trainer === "kto";
  const rows = { train: single ? data.train_singles : data.train, evaluation: single ? data.eval_singles : data.eval };
  using made = trainerOf({ trainer, options: {} }, model, rows, {
    refModel: null,
    refCacheDir: null,
    perDeviceTrainBatchSize: 2,
    maxSteps: 6,
    ...options,
  });
  made.addCallback({
    onStepEnd({ state, control }) {
      if (state.globalStep === stopAt) control.shouldTrainingStop = true;
    },
  });
  if (plans) {
    for await (const batch of made.options.train.batches(0, 2)) made.runner.program("train", batch);
  }
  if (evaluates) await made.evaluate();
  for (const resumeFromCheckpoint of resumesInVain ?? []) await assert.rejects(made.train({ resumeFromCheckpoint }));
  await made.train();
  return { history: withoutSpeed(made.state.logHistory), weights: await trainedBytes(made) };
}

const freshModel = async (): Promise<PeftModel> =>
  getPeftModel(await baseModel(), { r: 2, targetModules: ["q_proj", "down_proj"] });

for (const trainer of ["dpo", "kto"] as const) {
  test(`${trainer}: a new adapter's reference is the base model`, async () => {
    const own = await run(trainer, { model: await freshModel() });
    const base = await run(trainer, { model: await freshModel(), options: { refModel: "base" } });
    assert.deepEqual(own, base);
    // A trained one's is not.
    const trained = await run(trainer, { model: await policyModel() });
    const other = await run(trainer, { model: await policyModel(), options: { refModel: "base" } });
    assert.notDeepEqual(trained.history, other.history);
  });
}

test("a program made before training is made again for the reference", async () => {
  const plain = await run("dpo", { model: await policyModel() });
  assert.deepEqual(await run("dpo", { model: await policyModel(), plans: true }), plain);
  const evaluated = await run("dpo", { model: await policyModel(), evaluates: true, plans: true });
  assert.deepEqual(evaluated.weights, plain.weights);
});

test("resumed with the adapter of the checkpoint, a training has the reference it began with, bit for bit", async () => {
  for (const precomputeRefLogProbs of [false, true]) {
    const options = { precomputeRefLogProbs };
    const straight = await run("dpo", { model: await policyModel(), options });
    await inFolder(async (outputDir) => {
      const saves = { ...options, outputDir, saveStrategy: "steps", saveSteps: 3 };
      await run("dpo", { model: await policyModel(), options: saves, stopAt: 3 });
      const checkpoint = join(outputDir, "checkpoint-3");
      assert.ok(existsSync(join(checkpoint, REFERENCE)));
      for (const evaluates of [false, true]) {
        const model = await PeftModel.fromPretrained(await baseModel(), checkpoint, { isTrainable: true });
        const resume = { ...options, outputDir, resumeFromCheckpoint: true };
        const { history, weights } = await run("dpo", { model, options: resume, evaluates });
        assert.deepEqual(history, straight.history);
        assert.deepEqual(weights, straight.weights);
      }
    });
  }
});

test("a training that began with a new adapter goes on with the base model as its reference", async () => {
  const straight = await run("dpo", { model: await freshModel() });
  await inFolder(async (outputDir) => {
    await run("dpo", {
      model: await freshModel(),
      options: { outputDir, saveStrategy: "steps", saveSteps: 3 },
      stopAt: 3,
    });
    const checkpoint = join(outputDir, "checkpoint-3");
    assert.ok(!existsSync(join(checkpoint, REFERENCE)));
    for (const evaluates of [false, true]) {
      const model = await PeftModel.fromPretrained(await baseModel(), checkpoint, { isTrainable: true });
      const resume = { outputDir, resumeFromCheckpoint: true };
      assert.deepEqual(await run("dpo", { model, options: resume, evaluates }), straight);
    }
  });
});

test("a checkpoint whose replacement was interrupted has its reference, too", async () => {
  const straight = await run("dpo", { model: await policyModel() });
  await inFolder(async (outputDir) => {
    const saves = { outputDir, saveStrategy: "steps", saveSteps: 3 };
    await run("dpo", { model: await policyModel(), options: saves, stopAt: 3 });
    // As a process leaves it that ends between the two renamings.
    const aside = join(outputDir, ".replaced-checkpoint-3");
    await rename(join(outputDir, "checkpoint-3"), aside);
    const model = await PeftModel.fromPretrained(await baseModel(), aside, { isTrainable: true });
    const resumed = await run("dpo", { model, options: { outputDir, resumeFromCheckpoint: true } });
    assert.deepEqual(resumed, straight);
  });
});

test("a checkpoint that cannot be resumed from leaves the reference as it was", async () => {
  const plain = await run("dpo", { model: await policyModel() });
  await inFolder(async (outputDir) => {
    await run("dpo", {
      model: await policyModel(),
      options: { outputDir, saveStrategy: "steps", saveSteps: 3 },
      stopAt: 3,
    });
    const damaged = join(outputDir, "checkpoint-3");
    await truncate(join(damaged, REFERENCE), 100);
    for (const resumesInVain of [[join(outputDir, "nowhere")], [damaged], [damaged, join(outputDir, "nowhere")]]) {
      assert.deepEqual(await run("dpo", { model: await policyModel(), resumesInVain }), plain);
    }
  });
});

test.after(() => backend.dispose());
