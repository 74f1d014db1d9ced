import assert from "node:assert/strict";
import { test } from "node:test";
import { openCpuBackend } from "../../backends/cpu/backend.ts";
import { Dataset } from "../../data/index.ts";
import { loadModel } from "../../models/load/load.ts";
import { addScoreHead } from "../../models/score-head.ts";
import { getPeftModel, PeftModel } from "../../peft/index.ts";
import { relativeError } from "../../testing/kernels.ts";
import { oraclePath as oracle, oracleFloats, oracleJson, oracleTensors } from "../../testing/oracle.ts";
import { inFolder, trainedBytes, withoutSpeed } from "../tiny-training.test.support.ts";
import { collatePairs, type RewardPair } from "./pairs.ts";
import { RewardTrainer } from "./reward-trainer.ts";
import { RewardScorer } from "./scorer.ts";

interface OraclePair {
  readonly chosen_ids: number[];
  readonly rejected_ids: number[];
  readonly margin: number;
}
interface Expected {
  readonly options: Record<string, unknown>;
  readonly train: OraclePair[];
  readonly eval: OraclePair[];
  readonly log_history: Record<string, number>[];
}

const backend = await openCpuBackend({ threads: 2, prefer: "native" });
const expected = oracleJson<Expected>("reward", "expected.json");
const pairsOf = (rows: readonly OraclePair[]): RewardPair[] =>
  rows.map(({ chosen_ids, rejected_ids, margin }) => ({
    chosenIds: Int32Array.from(chosen_ids),
    rejectedIds: Int32Array.from(rejected_ids),
    margin,
  }));
const [train, held] = [pairsOf(expected.train), pairsOf(expected.eval)];

async function tiny(): Promise<PeftModel> {
  const base = await loadModel({ path: oracle("families", "llama3", "model"), backend });
  return PeftModel.fromPretrained(base, oracle("reward", "adapter_init"), { isTrainable: true });
}

const ARGS = { trainSamplingStrategy: "sequential", seed: 7, logLevel: "error", disableTqdm: true, reportTo: "none" };

test("gradients of the first batch are TRL's", async () => {
  using model = await tiny();
  using trainer = new RewardTrainer({
    model,
    trainDataset: train,
    args: { ...ARGS, ...expected.options, eval_strategy: "no" },
  });
  await trainer.runner.train(collatePairs(train.slice(0, 2)), 1 / 2, new Uint32Array(2));
  const gradients = oracleTensors("reward", "gradients.safetensors");
  let seen = 0;
  for (const trainable of trainer.optimizer.trainables) {
    const name = trainable.name.replace(/\.weight$/, "").replace("score", "score.modules_to_save");
    const wanted = oracleFloats(gradients, `${name}.default.weight`);
    const bytes = await trainer.optimizer.gradient(trainable).read();
    const found = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    assert.ok(relativeError(found, wanted) < 1e-4, `${name}: ${relativeError(found, wanted)}`);
    seen++;
  }
  assert.equal(seen, gradients.size);
});

test("twenty steps, their metrics, evaluations and the final adapter are TRL's", async () => {
  await inFolder(async (outputDir) => {
    using model = await tiny();
    const args = { ...ARGS, ...expected.options, outputDir };
    using trainer = new RewardTrainer({ model, trainDataset: train, evalDataset: held, args });
    await trainer.train();
    assert.equal(trainer.state.logHistory.length, expected.log_history.length);
    for (const [i, row] of expected.log_history.entries()) {
      const found = trainer.state.logHistory[i]!;
      for (const [key, value] of Object.entries(row)) {
        if (/_runtime$|_per_second$|total_flos/.test(key)) continue;
        const error = value === 0 ? Math.abs(found[key]!) : Math.abs(found[key]! / value - 1);
        assert.ok(error <= 1e-4, `row ${i}, ${key}: found ${found[key]}, TRL has ${value}`);
      }
    }
    const final = oracleTensors("reward", "adapter_final", "adapter_model.safetensors");
    for (const { name, tensor } of trainer.optimizer.trainables) {
      const bytes = await tensor.read();
      const found = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
      const error = relativeError(found, oracleFloats(final, name));
      assert.ok(error <= 1e-5, `${name}: ${error}`);
    }
  });
});

test("batch 1 with 4 accumulated is batch 4", async () => {
  const run = async (batch: number, accumulation: number) =>
    inFolder(async (outputDir) => {
      using model = await tiny();
      const sizes = { perDeviceTrainBatchSize: batch, gradientAccumulationSteps: accumulation };
      const args = {
        ...ARGS,
        ...sizes,
        outputDir,
        maxSteps: 4,
        learningRate: 2e-3,
        loggingSteps: 1,
        saveStrategy: "no",
      };
      using trainer = new RewardTrainer({ model, trainDataset: train, args });
      await trainer.train();
      const losses = trainer.state.logHistory.slice(0, 4).map(({ loss }) => loss as number);
      return {
        losses,
        weights: await trainedBytes(trainer),
        names: trainer.optimizer.trainables.map(({ name }) => name),
      };
    });
  const four = await run(4, 1);
  for (const other of [await run(1, 4), await run(2, 2)]) {
    other.losses.forEach((loss, i) => assert.ok(Math.abs(loss / four.losses[i]! - 1) < 1e-5, `step ${i}: ${loss}`));
    for (const name of four.names) {
      const [own, expected] = [other, four].map(
        ({ weights }) => new Float32Array(new Uint8Array(weights.get(name)!).buffer),
      );
      assert.ok(relativeError(own!, expected!) < 1e-4, name);
    }
  }
});

test("a resumed training is the uninterrupted one, bit for bit", async () => {
  await inFolder(async (outputDir) => {
    const run = async (maxSteps: number, resumeFromCheckpoint: boolean) => {
      using model = await tiny();
      const args = {
        ...ARGS,
        outputDir,
        maxSteps,
        saveSteps: 3,
        loggingSteps: 1,
        learningRate: 1e-3,
        lrSchedulerType: "constant",
      };
      using trainer = new RewardTrainer({
        model,
        trainDataset: train,
        args: { ...args, trainSamplingStrategy: "random" },
      });
      await trainer.train({ resumeFromCheckpoint });
      return { bytes: await trainedBytes(trainer), history: withoutSpeed(trainer.state.logHistory) };
    };
    const whole = await inFolder(async (other) => {
      using model = await tiny();
      const args = {
        ...ARGS,
        outputDir: other,
        maxSteps: 6,
        saveSteps: 3,
        loggingSteps: 1,
        learningRate: 1e-3,
        lrSchedulerType: "constant",
      };
      using trainer = new RewardTrainer({
        model,
        trainDataset: train,
        args: { ...args, trainSamplingStrategy: "random" },
      });
      await trainer.train();
      return { bytes: await trainedBytes(trainer), history: withoutSpeed(trainer.state.logHistory) };
    });
    await run(3, false);
    const resumed = await run(6, true);
    assert.deepEqual(resumed.bytes, whole.bytes);
    assert.deepEqual(resumed.history, whole.history);
  });
});

test("a scorer gives the rewards that training sees, through text and ids", async () => {
  using model = await tiny();
  using trainer = new RewardTrainer({ model, trainDataset: train, args: ARGS });
  const { arrays } = await trainer.runner.evaluate(collatePairs(train.slice(0, 5)), 1);
  using scorer = new RewardScorer(model, { batchTokens: 40 });
  const found = await scorer.scoreIds(train.slice(0, 5).map(({ chosenIds }) => chosenIds));
  found.forEach((reward, i) => assert.ok(Math.abs(reward - arrays.chosen![i]!) < 1e-5));
  assert.throws(() => new RewardScorer(model, { adapterName: "other" }), /no adapter named "other"/);
  await assert.rejects(scorer.scoreIds([[1], []]), /sequence 1 is empty/);
  assert.throws(() => scorer.score([{ prompt: "a", completion: "b" }]), /tokenizer is missing/);
});

test("models and rows that do not fit are refused by name", async () => {
  const base = await loadModel({ path: oracle("families", "llama3", "model"), backend });
  addScoreHead(base);
  using model = await getPeftModel(base, { r: 2, targetModules: ["q_proj"] });
  assert.throws(() => new RewardTrainer({ model, trainDataset: train, args: ARGS }), /does not train the score head/);
  using right = await tiny();
  const make = (trainDataset: RewardPair[] | Dataset, args = {}) =>
    new RewardTrainer({ model: right, trainDataset, args: { ...ARGS, ...args } });
  const same = { chosenIds: Int32Array.of(1, 2), rejectedIds: Int32Array.of(1, 2) };
  assert.throws(() => make([same]), /1 rows, none of which is left \(1 with equal answers, 0 longer.*pair 0/);
  assert.throws(
    () => make(train, { maxLength: 3 }),
    /24 rows, .*\(0 with equal answers, 24 longer than 3; pair 0, pair 1, pair 2/,
  );
  using trainer = make([same, ...train]);
  const { rows, dropped, droppedAt, tokens } = trainer.dataReport;
  assert.deepEqual([rows, dropped, droppedAt], [25, { equal: 1, tooLong: 0 }, ["pair 0"]]);
  const kept = train.reduce((sum, { chosenIds, rejectedIds }) => sum + chosenIds.length + rejectedIds.length, 0);
  assert.equal(tokens, kept);
  assert.throws(() => make(Dataset.fromList([{ chosen: "a", rejected: "b" }])), /tokenizer is missing/);
  assert.throws(() => make(train, { centreRewardsCoefficient: 1 }), /did you mean "centerRewardsCoefficient"/);
});
