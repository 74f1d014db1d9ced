import assert from "node:assert/strict";
import { existsSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Dataset } from "../../data/index.ts";
import { getPeftModel } from "../../peft/index.ts";
import { relativeError } from "../../testing/kernels.ts";
import { oraclePath } from "../../testing/oracle.ts";
import { inFolder, trainedBytes, withoutSpeed } from "../tiny-training.test.support.ts";
import { DPOConfig, DPOTrainer, KTOTrainer } from "./index.ts";
import { backend, baseModel, data, policyModel, tokenizer, trainerOf } from "./parity.test.support.ts";

const rowsOf = (trainer: string) => (trainer === "kto" ? data.train_singles : data.train);

/** What does not sort or rotate within a batch must not see how a window is cut. */
const SETTINGS = [
  { trainer: "dpo", options: { lossType: ["sigmoid", "sft"], lossWeights: [1, 0.3] } },
  { trainer: "dpo", options: { ldAlpha: 0.5, useWeighting: true } },
  { trainer: "kto", options: { lossType: "apo_zero_unpaired" } },
  { trainer: "cpo", options: { lossType: "simpo", cpoAlpha: 0.5 } },
  { trainer: "orpo", options: {} },
] as const;

for (const setting of SETTINGS) {
  const name = `${setting.trainer} ${JSON.stringify(setting.options)}`;

  test(`${name}: batch 4 × accumulation 1 = batch 1 × accumulation 4, and evaluations of any batch size agree`, async () => {
    const weights: Map<string, Buffer>[] = [];
    const losses: number[][] = [];
    const evaluations: number[] = [];
    for (const batchSize of [4, 1, 2]) {
      using model = await policyModel();
      const evaluation = setting.trainer === "kto" ? data.eval_singles : data.eval;
      using trainer = trainerOf(
        setting,
        model,
        { train: rowsOf(setting.trainer), evaluation },
        {
          perDeviceTrainBatchSize: batchSize,
          perDeviceEvalBatchSize: batchSize,
          gradientAccumulationSteps: 4 / batchSize,
          // Thirteen rows: the last window of an epoch is short.
          maxSteps: 5,
          trainSamplingStrategy: "random",
        },
      );
      evaluations.push((await trainer.evaluate()).eval_loss!);
      await trainer.train();
      weights.push(await trainedBytes(trainer));
      losses.push(trainer.state.logHistory.flatMap(({ loss }) => loss ?? []));
    }
    const [one, ...others] = weights;
    for (const other of others) {
      for (const [tensor, bytes] of one!) {
        if (!tensor.includes("lora_")) continue;
        const floats = (buffer: Buffer) => new Float32Array(Uint8Array.from(buffer).buffer);
        const error = relativeError(floats(other.get(tensor)!), floats(bytes));
        assert.ok(error <= 1e-4, `${tensor}: ${error}`);
      }
    }
    for (const other of losses.slice(1)) {
      other.forEach(
        (loss, i) => void assert.ok(Math.abs(loss - losses[0]![i]!) <= 2e-5 * Math.abs(loss), `${other} ${losses[0]}`),
      );
    }
    for (const loss of evaluations)
      assert.ok(Math.abs(loss - evaluations[0]!) <= 1e-5 * Math.abs(loss), `${evaluations}`);
  });

  test(`${name}: resumed = uninterrupted, bit for bit`, async () => {
    const run = async (more: Record<string, unknown>, stopAt?: number) => {
      using model = await policyModel();
      using trainer = trainerOf(
        setting,
        model,
        { train: rowsOf(setting.trainer) },
        {
          perDeviceTrainBatchSize: 2,
          gradientAccumulationSteps: 2,
          maxSteps: 8,
          trainSamplingStrategy: "random",
          ...more,
        },
      );
      trainer.addCallback({
        onStepEnd({ state, control }) {
          if (state.globalStep === stopAt) control.shouldTrainingStop = true;
        },
      });
      await trainer.train();
      return { weights: await trainedBytes(trainer), history: withoutSpeed(trainer.state.logHistory) };
    };
    const straight = await run({});
    await inFolder(async (outputDir) => {
      await run({ outputDir, saveStrategy: "steps", saveSteps: 5 }, 5);
      const resumed = await run({ outputDir, resumeFromCheckpoint: true });
      assert.deepEqual(resumed.history, straight.history);
      for (const [tensor, bytes] of straight.weights) assert.ok(bytes.equals(resumed.weights.get(tensor)!), tensor);
    });
  });
}

test("reference numbers computed beforehand train as the reference traced does, and are kept between runs", async () => {
  for (const trainer of ["dpo", "kto"] as const) {
    await inFolder(async (refCacheDir) => {
      const run = async (more: Record<string, unknown>) => {
        using model = await policyModel();
        const evaluation = trainer === "kto" ? data.eval_singles : data.eval;
        using made = trainerOf(
          { trainer, options: {} },
          model,
          { train: rowsOf(trainer), evaluation },
          {
            perDeviceTrainBatchSize: 2,
            perDeviceEvalBatchSize: 3,
            maxSteps: 4,
            evalStrategy: "steps",
            evalSteps: 2,
            ...more,
          },
        );
        let passes = 0;
        const { runner } = made;
        const forward = runner.forward.bind(runner);
        runner.forward = (...args) => {
          passes++;
          return forward(...args);
        };
        await made.train();
        return { passes, history: withoutSpeed(made.state.logHistory) };
      };
      const traced = await run({});
      assert.equal(traced.passes, 0);
      const before = await run({ precomputeRefLogProbs: true, refCacheDir });
      assert.equal(before.passes, 7 + 2);
      compare(before.history, traced.history);
      const files = readdirSync(refCacheDir);
      assert.equal(files.length, 2);
      const again = await run({ precomputeRefLogProbs: true, refCacheDir });
      assert.equal(again.passes, 0);
      assert.deepEqual(again.history, before.history);
      // Other settings are other numbers; a damaged file is made again.
      if (trainer === "dpo")
        assert.ok((await run({ precomputeRefLogProbs: true, refCacheDir, ldAlpha: 0.5 })).passes > 0);
      for (const file of files) writeFileSync(join(refCacheDir, file), "no tensors");
      const warnings = silenced();
      const mended = await run({ precomputeRefLogProbs: true, refCacheDir });
      assert.match(warnings(), /computed again/);
      assert.deepEqual(mended.history, before.history);
    });
  }
});

test("the reference in the program costs no memory: only its few numbers stay", async () => {
  const arena = async (precomputeRefLogProbs: boolean): Promise<number> => {
    using model = await policyModel();
    const more = { precomputeRefLogProbs, refCacheDir: null, perDeviceTrainBatchSize: 13, maxSteps: 1 };
    using trainer = trainerOf({ trainer: "dpo", options: {} }, model, { train: data.train }, more);
    await trainer.train();
    const [batch] = [...(trainer.options.train.batches(0, 13) as Iterable<Parameters<typeof trainer.runner.train>[0]>)];
    return trainer.runner.program("train", batch!).arenaBytes;
  };
  const [traced, without] = [await arena(false), await arena(true)];
  assert.ok(traced <= 1.02 * without, `${traced} bytes, ${without} without a reference`);
});

test("predictions are logits of every sequence, with the metrics of an evaluation", async () => {
  for (const trainer of ["dpo", "kto"] as const) {
    using model = await policyModel();
    const rows = trainer === "kto" ? data.singles : data.batch;
    using made = trainerOf({ trainer, options: {} }, model, { train: rows }, { maxSteps: 1 });
    const { predictions, metrics } = await made.predict(Dataset.fromList(rows));
    assert.equal(predictions.length, trainer === "kto" ? rows.length : 2 * rows.length);
    const evaluated = await made.evaluate(Dataset.fromList(rows), "test");
    const names = (row: object): Set<string> =>
      new Set(Object.keys(row).filter((key) => /test_(rewards|logps|logits|kl|share)/.test(key)));
    assert.deepEqual(names(metrics), names(evaluated));
    compare([metrics], [evaluated]);
  }
});

test("all weights trained: the reference is the model before training, whatever a checkpoint holds", async () => {
  const make = async (more: Record<string, unknown> = {}) => {
    const { loadModel } = await import("../../models/load/load.ts");
    const model = await loadModel({ path: oraclePath("preference", "model"), backend, fullFinetuning: true });
    const rows = { train: data.train, evaluation: data.eval };
    const args = { perDeviceTrainBatchSize: 2, maxSteps: 6, refCacheDir: null, activationMemory: 2 ** 24, ...more };
    return { model, trainer: trainerOf({ trainer: "dpo", options: {} }, model, rows, args) };
  };
  const first = await make();
  const begun = await first.trainer.evaluate();
  // Before training policy and reference are the same.
  assert.ok(Math.abs(begun["eval_rewards/chosen"]!) < 1e-4);
  await first.trainer.train();
  const straight = withoutSpeed(first.trainer.state.logHistory);
  assert.ok(first.trainer.state.logHistory.some((row) => Math.abs(row["rewards/margins"] ?? 0) > 1e-3));
  await assert.rejects(
    first.trainer.evaluate(Dataset.fromList(data.batch)),
    /the reference was the model before training/,
  );
  first.trainer.dispose();
  first.model.dispose();
  await inFolder(async (outputDir) => {
    const stopped = await make({ outputDir, maxSteps: 6, saveStrategy: "steps", saveSteps: 3 });
    stopped.trainer.addCallback({
      onStepEnd({ state, control }) {
        if (state.globalStep === 3) control.shouldTrainingStop = true;
      },
    });
    await stopped.trainer.train();
    stopped.trainer.dispose();
    stopped.model.dispose();
    const resumed = await make({ outputDir, resumeFromCheckpoint: true });
    await resumed.trainer.train();
    assert.deepEqual(withoutSpeed(resumed.trainer.state.logHistory), straight);
    resumed.trainer.dispose();
    resumed.model.dispose();
  });
});

test("references: another model, a named adapter, and the adapter as it was", async () => {
  const begin = async (
    more: Record<string, unknown>,
    prepare?: (model: Awaited<ReturnType<typeof policyModel>>) => Promise<unknown>,
  ) => {
    using model = await policyModel();
    await prepare?.(model);
    const { refModel, ...args } = more;
    const trainDataset = Dataset.fromList(data.batch);
    const common = { logLevel: "error", refCacheDir: null, maxLength: 48 } as const;
    using trainer = new DPOTrainer({
      model,
      tokenizer,
      trainDataset,
      evalDataset: trainDataset,
      args: { ...common, ...args },
      ...(refModel ? { refModel: refModel as never } : {}),
    });
    return await trainer.evaluate();
  };
  const without = await begin({ refModel: "base" });
  using other = await baseModel();
  compare([await begin({ refModel: other })], [without]);
  compare([await begin({ refModel: other, precomputeRefLogProbs: true })], [without]);
  // By its own name, or as what training begins with: policy and reference are the same.
  for (const more of [{ refAdapterName: "default" }, {}, { precomputeRefLogProbs: true }]) {
    const itself = await begin(more);
    assert.ok(Math.abs(itself["eval_rewards/chosen"]!) < 1e-4 && Math.abs(itself.eval_loss! - Math.LN2) < 1e-4);
  }
  const load = (model: Awaited<ReturnType<typeof policyModel>>) =>
    model.loadAdapter(oraclePath("preference", "adapter_ref"), "other");
  const named = await begin({ refAdapterName: "other" }, load);
  assert.ok(Math.abs(named["eval_rewards/chosen"]! - without["eval_rewards/chosen"]!) > 1e-3);
  compare([await begin({ refAdapterName: "other", precomputeRefLogProbs: true }, load)], [named]);
});

test("LoRA dropout is off unless asked for", async () => {
  const begin = async (disableDropout: boolean, loraDropout: number) => {
    using model = await getPeftModel(await baseModel(), {
      r: 2,
      loraDropout,
      targetModules: ["q_proj", "down_proj"],
    });
    for (const { tensor, name } of model.trainable()) {
      if (name.includes("lora_B")) tensor.write(new Uint8Array(new Float32Array(tensor.bytes / 4).fill(0.2).buffer));
    }
    using trainer = trainerOf(
      { trainer: "dpo", options: {} },
      model,
      { train: data.batch },
      { disableDropout, maxSteps: 1 },
    );
    const [batch] = [...(trainer.options.train.batches(0, 6) as Iterable<Parameters<typeof trainer.runner.train>[0]>)];
    const evaluated = await trainer.runner.evaluate(batch!, 1 / 6);
    const { loss } = await trainer.runner.train(batch!, 1 / 6, Uint32Array.of(1, 1));
    const gradients: Buffer[] = [];
    for (const one of trainer.optimizer.trainables)
      gradients.push(Buffer.from(await trainer.optimizer.gradient(one).read()));
    return { difference: loss - evaluated.loss, gradients: Buffer.concat(gradients) };
  };
  const [off, on, none] = [await begin(true, 0.5), await begin(false, 0.5), await begin(false, 0)];
  assert.equal(off.difference, 0);
  assert.notEqual(on.difference, 0);
  assert.ok(off.gradients.equals(none.gradients) && !on.gradients.equals(none.gradients));
});

test("settings are checked: names, values, and what does not go together", async () => {
  using model = await policyModel();
  const make =
    (args: Record<string, unknown>, options: Record<string, unknown> = {}) =>
    () =>
      new DPOTrainer({
        model,
        tokenizer,
        trainDataset: Dataset.fromList(data.batch),
        args: { logLevel: "error", ...args },
        ...options,
      });
  assert.throws(make({ bta: 1 }), /unknown option "bta"; did you mean "beta"/);
  assert.throws(make({ losstype: "ipo" }), /did you mean "lossType"/);
  assert.throws(make({ lossType: "kto_pair" }), /lossType/);
  assert.throws(make({ lossType: "exo_pair" }), /needs labelSmoothing above 0/);
  assert.throws(make({ lossType: "hinge", labelSmoothing: 0.1 }), /labelSmoothing changes nothing in loss "hinge"/);
  assert.throws(make({ lossType: ["ipo", "sft"], lossWeights: [1] }), /1 lossWeights for 2 losses/);
  assert.throws(make({ lossType: "bco_pair", fDivergenceType: "js_divergence" }), /no form for fDivergenceType/);
  assert.throws(make({ lossType: "aot", useWeighting: true }), /useWeighting weighs pairs/);
  assert.throws(make({ syncRefModel: true }), /syncRefModel true cannot be had/);
  assert.throws(make({ labelSmoothingFactor: 0.1 }), /the preference losses' is labelSmoothing/);
  assert.throws(make({ refAdapterName: "nobody" }), /no such adapter; there are default/);
  assert.throws(make({}, { refModel: model }), /model and refModel are the same/);
  assert.throws(make({}, { tokenizer: undefined }), /tokenizer is missing/);
  assert.throws(make({}, { trainDataset: data.batch }), /data is not a Dataset/);
  assert.throws(
    () =>
      new KTOTrainer({
        model,
        tokenizer,
        trainDataset: Dataset.fromList(data.singles),
        args: { perDeviceTrainBatchSize: 1 },
      }),
    /needs perDeviceTrainBatchSize 2 or more/,
  );
  const config = new DPOConfig({ beta: 0.3, loss_type: ["sigmoid", "sft"], per_device_train_batch_size: 3 });
  assert.deepEqual([config.beta, config.lossType, config.perDeviceTrainBatchSize], [0.3, ["sigmoid", "sft"], 3]);
  assert.deepEqual([config.learningRate, config.loggingSteps, config.maxLength], [1e-6, 10, 1024]);
});

test("a trainer saves adapter and tokenizer, and says what was left out of its data", async () => {
  await inFolder(async (outputDir) => {
    using model = await policyModel();
    const train = [...data.batch, { prompt: "a", chosen: " b", rejected: " b" }];
    using trainer = trainerOf({ trainer: "dpo", options: {} }, model, { train }, { outputDir, maxSteps: 1 });
    assert.deepEqual(trainer.dataReport.dropped, { equal: 1, empty: 0, cut: 0 });
    await trainer.saveModel();
    assert.ok(
      existsSync(join(outputDir, "adapter_model.safetensors")) && existsSync(join(outputDir, "tokenizer.json")),
    );
    rmSync(outputDir, { recursive: true });
  });
});

/** Rows of numbers that are nearly the same. */
function compare(own: readonly Record<string, number>[], expected: readonly Record<string, number>[]): void {
  assert.equal(own.length, expected.length);
  own.forEach((row, i) => {
    for (const [key, value] of Object.entries(row)) {
      if (/_runtime$|_per_second$/.test(key)) continue;
      const error = Math.abs(value - expected[i]![key]!) / Math.max(1e-2, Math.abs(value));
      assert.ok(error <= 1e-4, `row ${i} ${key}: ${value}, expected ${expected[i]![key]}`);
    }
  });
}

/** Warnings from now on, instead of printing them. */
function silenced(): () => string {
  const all: string[] = [];
  const emit = process.emitWarning;
  process.emitWarning = ((warning: string | Error) => void all.push(String(warning))) as typeof process.emitWarning;
  return () => {
    process.emitWarning = emit;
    return all.join("\n");
  };
}

test.after(() => backend.dispose());
