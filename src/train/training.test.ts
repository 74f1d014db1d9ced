import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Batch } from "../data/collate.ts";
import { binary, scale, unary } from "../ops/elementwise.ts";
import { sum } from "../ops/reduce.ts";
import { type BatchSource, windows } from "./batches.ts";
import { EarlyStoppingCallback } from "./early-stopping.ts";
import {
  inFolder,
  openBackend,
  quietTrainer,
  randomRows,
  source,
  tinyPeft,
  trainedBytes,
} from "./tiny-training.test.support.ts";

const backend = await openBackend();
const data = () => ({ train: source(randomRows(6)), evaluation: source(randomRows(4, 1, 9)) });

test("the best checkpoint is kept, and its weights are loaded at the end", async () => {
  await inFolder(async (outputDir) => {
    using model = await tinyPeft(backend);
    const weights: Map<string, Buffer>[] = [];
    using trainer = quietTrainer(model, {
      ...data(),
      // Accuracies that are best after step 2.
      computeMetrics: () => ({ score: 10 - Math.abs(trainer.state.globalStep - 2) }),
      args: {
        outputDir,
        maxSteps: 5,
        evalStrategy: "steps",
        evalSteps: 1,
        saveStrategy: "steps",
        saveSteps: 1,
        saveTotalLimit: 2,
        loadBestModelAtEnd: true,
        metricForBestModel: "score",
      },
      callbacks: [{ onStepEnd: async () => void weights.push(await trainedBytes(trainer)) }],
    });
    await trainer.train();
    assert.equal(trainer.state.bestGlobalStep, 2);
    assert.equal(trainer.state.bestMetric, 10);
    assert.equal(trainer.state.bestModelCheckpoint, join(outputDir, "checkpoint-2"));
    assert.deepEqual(readdirSync(outputDir).sort(), ["checkpoint-2", "checkpoint-5"]);
    for (const { name, tensor } of trainer.optimizer.trainables) {
      const now = Buffer.from(await tensor.read());
      assert.ok(now.equals(weights[1]!.get(name)!), `${name} is not that of step 2`);
      if (name.includes("lora_B")) assert.ok(!now.equals(weights[4]!.get(name)!));
    }
    const state = JSON.parse(readFileSync(join(outputDir, "checkpoint-5", "trainer_state.json"), "utf8"));
    assert.equal(state.best_global_step, 2);
  });
});

test("with saveTotalLimit 1 only the best is left, and saveStrategy best saves nothing else", async () => {
  const left = async (args: Record<string, unknown>): Promise<string[]> =>
    inFolder(async (outputDir) => {
      using model = await tinyPeft(backend);
      using trainer = quietTrainer(model, {
        ...data(),
        computeMetrics: () => ({ score: -Math.abs(trainer.state.globalStep - 2) }),
        args: {
          outputDir,
          maxSteps: 4,
          evalStrategy: "steps",
          evalSteps: 1,
          metricForBestModel: "score",
          loadBestModelAtEnd: true,
          ...args,
        },
      });
      await trainer.train();
      return readdirSync(outputDir).sort();
    });
  assert.deepEqual(await left({ saveStrategy: "steps", saveSteps: 1, saveTotalLimit: 1 }), ["checkpoint-2"]);
  assert.deepEqual(await left({ saveStrategy: "best" }), ["checkpoint-1", "checkpoint-2"]);
});

test("early stopping waits for its patience and counts only improvements beyond the threshold", async () => {
  const stoppedAt = async (options: ConstructorParameters<typeof EarlyStoppingCallback>[0]): Promise<number> => {
    using model = await tinyPeft(backend);
    const scores = [1, 2, 2.05, 2.1, 1, 1, 5, 1];
    using trainer = quietTrainer(model, {
      ...data(),
      computeMetrics: () => ({ score: scores[trainer.state.globalStep - 1]! }),
      args: { maxSteps: 8, evalStrategy: "steps", evalSteps: 1, metricForBestModel: "score" },
      callbacks: [new EarlyStoppingCallback(options)],
    });
    await trainer.train();
    return trainer.state.globalStep;
  };
  assert.equal(await stoppedAt({}), 5);
  assert.equal(await stoppedAt({ earlyStoppingPatience: 2 }), 6);
  assert.equal(await stoppedAt({ earlyStoppingPatience: 3 }), 8);
  assert.equal(await stoppedAt({ earlyStoppingPatience: 2, earlyStoppingThreshold: 0.08 }), 4);
  assert.throws(() => new EarlyStoppingCallback({ earlyStoppingPatience: 0 }), /positive integer, found 0/);
});

test("early stopping goes by the data set that has the metric", async () => {
  using model = await tinyPeft(backend);
  const evaluation = { easy: source(randomRows(2)), hard: source(randomRows(2, 1, 9)) };
  const args = { maxSteps: 9, evalStrategy: "steps", evalSteps: 1, metricForBestModel: "hard_loss", learningRate: 0 };
  const callbacks = [new EarlyStoppingCallback({ earlyStoppingPatience: 2 })];
  using trainer = quietTrainer(model, { train: source(randomRows(4)), evaluation, args, callbacks });
  await trainer.train();
  assert.equal(trainer.state.globalStep, 3);
});

test("early stopping says which settings it needs", async () => {
  const train = async (args: Record<string, unknown>): Promise<unknown> => {
    using model = await tinyPeft(backend);
    using trainer = quietTrainer(model, { ...data(), args, callbacks: [new EarlyStoppingCallback()] });
    return await trainer.train();
  };
  await assert.rejects(train({ evalStrategy: "epoch" }), /needs metricForBestModel/);
  await assert.rejects(train({ metricForBestModel: "loss" }), /needs evalStrategy/);
  await assert.rejects(
    train({ evalStrategy: "steps", evalSteps: 1, metricForBestModel: "f1" }),
    /gave no "eval_f1"; it gave eval_loss, eval_runtime/,
  );
});

test("an epoch can be cut short, and training stopped, by callbacks", async () => {
  using model = await tinyPeft(backend);
  const epochs: number[] = [];
  using trainer = quietTrainer(model, {
    ...data(),
    args: { perDeviceTrainBatchSize: 2, numTrainEpochs: 9 },
    callbacks: [
      {
        onEpochBegin: ({ state }) => void epochs.push(state.globalStep),
        onStepEnd({ state, control }) {
          if (state.globalStep === 2) control.shouldEpochStop = true;
          if (state.globalStep === 6) control.shouldTrainingStop = true;
        },
      },
    ],
  });
  const { globalStep } = await trainer.train();
  assert.equal(globalStep, 6);
  assert.deepEqual(epochs, [0, 2, 5]);
});

test("callbacks can be added and taken out, by class too", async () => {
  using model = await tinyPeft(backend);
  using trainer = quietTrainer(model, { ...data(), args: { maxSteps: 1 } });
  let events = 0;
  const counter = { onStepEnd: () => void events++ };
  trainer.addCallback(counter);
  await trainer.train();
  assert.equal(trainer.removeCallback(counter), counter);
  assert.equal(trainer.removeCallback(counter), null);
  await trainer.train();
  assert.equal(events, 1);
  const early = new EarlyStoppingCallback();
  trainer.addCallback(early);
  assert.equal(trainer.removeCallback(EarlyStoppingCallback), early);
});

test("a second training starts its counts anew", async () => {
  using model = await tinyPeft(backend);
  using trainer = quietTrainer(model, { ...data(), args: { maxSteps: 2 } });
  await trainer.train();
  const { globalStep, metrics } = await trainer.train();
  assert.equal(globalStep, 2);
  assert.equal(trainer.state.logHistory.length, 3);
  assert.ok(metrics.train_tokens_per_second! > 0);
});

test("a loss of one's own is traced, with logits and numbers to log", async () => {
  using model = await tinyPeft(backend);
  let traced = 0;
  using trainer = quietTrainer(model, {
    ...data(),
    args: { maxSteps: 3, evalStrategy: "steps", evalSteps: 3, perDeviceTrainBatchSize: 6 },
    // Mean square of the logits, which training makes small.
    computeLoss({ logits }) {
      traced++;
      const squares = unary("square", logits());
      const loss = scale(sum(squares), 1e-4);
      return { loss, logs: { doubled: binary("add", loss, loss) } };
    },
  });
  await trainer.train();
  const [first, , third, evaluated] = trainer.state.logHistory;
  assert.ok(third!.loss! < first!.loss!);
  assert.ok(Math.abs(first!.doubled! - 2 * first!.loss!) <= 1e-6 * first!.loss!);
  assert.ok(!("entropy" in first!), "entropy is not known of such a loss");
  assert.ok(evaluated!.eval_loss! > 0 && !("eval_entropy" in evaluated!));
  assert.equal(traced, 2, "once a program, not once a step");
});

test("a loss that is not a number is left out of the mean, unless asked not to be", async () => {
  const losses = async (loggingNanInfFilter: boolean): Promise<number[]> => {
    using model = await tinyPeft(backend);
    const train = source(randomRows(4));
    using trainer = quietTrainer(model, {
      train,
      args: { maxSteps: 4, loggingSteps: 2, loggingNanInfFilter, perDeviceTrainBatchSize: 1 },
    });
    const { runner } = trainer;
    const step = runner.train.bind(runner);
    let calls = 0;
    runner.train = async (...args) => ({ ...(await step(...args)), ...(calls++ === 1 && { loss: Number.NaN }) });
    await trainer.train();
    return trainer.state.logHistory.flatMap(({ loss }) => loss ?? []);
  };
  const [filtered, plain] = [await losses(true), await losses(false)];
  assert.ok(filtered.every(Number.isFinite));
  assert.ok(Number.isNaN(plain[0]) && plain[1] === filtered[1]);
});

test("settings that contradict the data are refused at once", async () => {
  using model = await tinyPeft(backend);
  const train = source(randomRows(2));
  assert.throws(() => quietTrainer(model, { train, args: { evalStrategy: "steps" } }), /no evalDataset was given/);
  assert.throws(
    () => quietTrainer(model, { train, args: { lrSchedulerKwargs: { power: 2 } } }),
    /the linear schedule has no setting "power"/,
  );
  using trainer = quietTrainer(model, { train, args: {} });
  await assert.rejects(trainer.evaluate(), /no evalDataset was given/);
});

test("windows cut an epoch, leave out what was done and what comes after its end", async () => {
  const batches = Array.from({ length: 7 }, (_, i) => ({ numTokens: i }) as Batch);
  const cut = async (size: number, microbatches: number, skip: number, seeks = false): Promise<number[][]> => {
    const found: number[][] = [];
    const all: BatchSource = { length: 7, seeks, batches: (_epoch, _size, at) => batches.slice(seeks ? at : 0) };
    const options = { epoch: 0, batchSize: 1, size, microbatches, skip };
    for await (const window of windows(all, options)) {
      found.push(window.map(({ numTokens }) => numTokens));
    }
    return found;
  };
  assert.deepEqual(await cut(3, 7, 0), [[0, 1, 2], [3, 4, 5], [6]]);
  assert.deepEqual(await cut(3, 6, 3), [[3, 4, 5]]);
  assert.deepEqual(await cut(2, 5, 2), [[2, 3], [4]]);
  assert.deepEqual(await cut(2, 7, 7), []);
  assert.deepEqual(await cut(2, 9, 4), [[4, 5], [6]]);
  assert.deepEqual(await cut(2, 5, 2, true), [[2, 3], [4]]);
});
