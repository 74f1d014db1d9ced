import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Dataset } from "../../data/index.ts";
import { PeftModel } from "../../peft/index.ts";
import { relativeError } from "../../testing/kernels.ts";
import { tinyModel } from "../../testing/tiny-model.ts";
import { inFolder, openBackend, tinyPeft, trainedBytes, withoutSpeed } from "../tiny-training.test.support.ts";
import { addValueAdapter, PPOConfig, PPOTrainer, type PPOTrainerOptions } from "./ppo.ts";
import { PPOSource } from "./ppo-source.ts";
import type { RewardFunction } from "./rewards.ts";
import { wordTokenizer } from "./rl.test.support.ts";

const backend = await openBackend();
const rows = Array.from({ length: 16 }, (_, i) => ({
  prompt: Array.from({ length: 2 + (i % 3) }, (_, t) => `t${4 + ((7 * i + 11 * t) % 57)}`).join(" "),
  answer: i,
}));
const evens: RewardFunction = ({ completionIds }) =>
  completionIds.map((ids) => ids.filter((id) => id % 2 === 0).length / ids.length);

const ARGS = {
  perDeviceTrainBatchSize: 8,
  responseLength: 6,
  numPpoEpochs: 2,
  maxSteps: 4,
  learningRate: 1e-2,
  saveStrategy: "no" as const,
  logLevel: "error" as const,
};

async function trainer(args: object = {}, options: Partial<PPOTrainerOptions> = {}): Promise<PPOTrainer> {
  const model = options.model ?? (await tinyPeft(backend));
  if (!model.adapters.has("value")) await addValueAdapter(model);
  return new PPOTrainer({
    model,
    tokenizer: wordTokenizer(61),
    rewardModel: evens,
    trainDataset: Dataset.fromList(rows),
    ...options,
    args: { ...ARGS, ...args },
  });
}

test("the score rises, and the value model learns to foresee it", async () => {
  using ppo = await trainer({ maxSteps: 25, perDeviceTrainBatchSize: 16, learningRate: 2e-2, vfCoef: 1, klCoef: 0.01 });
  await ppo.train();
  const column = (name: string): number[] => ppo.state.logHistory.flatMap((row) => row[name] ?? []);
  const mean = (some: number[]): number => some.reduce((sum, x) => sum + x, 0) / some.length;
  const scores = column("objective/scores");
  const [before, after] = [mean(scores.slice(0, 3)), mean(scores.slice(-3))];
  assert.ok(after > before + 0.2, `scores went from ${before} to ${after}`);
  const losses = column("loss/value_avg");
  assert.ok(losses.at(-1)! < 0.5 * losses[0]!, `value losses went from ${losses[0]} to ${losses.at(-1)}`);
});

test("an update of 8 completions is one of 2×4", async () => {
  const options = { adamEpsilon: 1e-3, maxSteps: 2 };
  using whole = await trainer({ ...options, perDeviceTrainBatchSize: 8 });
  using parts = await trainer({ ...options, perDeviceTrainBatchSize: 4, gradientAccumulationSteps: 2 });
  for (const one of [whole, parts]) await one.train();
  const other = await trainedBytes(parts);
  for (const [name, bytes] of await trainedBytes(whole)) {
    const [a, b] = [floats(bytes), floats(other.get(name)!)];
    const error = relativeError(b, a);
    assert.ok(error <= 1e-4, `${name}: relative error ${error}`);
  }
  assert.equal(whole.optimizer.step, 4);
});

test("a resumed run is the one that was not stopped, to the bit; both adapters are saved", async () => {
  await inFolder(async (folder) => {
    const whole = join(folder, "whole");
    const args = { maxSteps: 5, loggingSteps: 2, numMiniBatches: 2 };
    using first = await trainer({ ...args, outputDir: whole, saveStrategy: "steps", saveSteps: 3 });
    await first.train();
    using second = await trainer({ ...args, outputDir: join(folder, "resumed") });
    await second.train({ resumeFromCheckpoint: join(whole, "checkpoint-3") });
    assert.deepEqual(await trainedBytes(second), await trainedBytes(first));
    assert.deepEqual(withoutSpeed(second.state.logHistory), withoutSpeed(first.state.logHistory));
    assert.equal(second.optimizer.step, 5 * 2 * 2);
    await first.saveModel(join(folder, "final"));
    for (const name of ["adapter_model.safetensors", "value/adapter_model.safetensors"]) {
      assert.ok(existsSync(join(folder, "final", name)), name);
    }
    using again = await PeftModel.fromPretrained(
      tinyModel(backend, "llama", { num_hidden_layers: 2 }),
      join(folder, "final"),
    );
    const saved = new Map(again.adapter.tensors.map(({ name, tensor }) => [name, tensor]));
    for (const { name, tensor } of first.optimizer.trainables) {
      if (name.startsWith("default/")) assert.deepEqual(await saved.get(name.slice(8))!.read(), await tensor.read());
    }
  });
});

test("a reward adapter scores; a value model starts from it", async () => {
  const model = await tinyPeft(backend);
  const reward = await addValueAdapter(model, { adapterName: "reward", r: 3, initLoraWeights: false });
  const value = await addValueAdapter(model, { from: "reward" });
  assert.equal(value.config.r, 3);
  for (const { name, tensor } of value.tensors) {
    const own = reward.tensors.find((other) => other.name === name)!;
    assert.deepEqual(await tensor.read(), await own.tensor.read());
  }
  const before = await Promise.all(reward.tensors.map(({ tensor }) => tensor.read()));
  using ppo = await trainer({ maxSteps: 1 }, { model, rewardModel: "reward" });
  await ppo.train();
  const [row] = ppo.state.logHistory;
  // The same model under the same tokens: the last value is the score, less what it was held back by.
  assert.ok(Number.isFinite(row!["objective/scores"]) && row!["objective/scores"] !== 0);
  assert.deepEqual(await Promise.all(reward.tensors.map(({ tensor }) => tensor.read())), before);
});

test("samples are shown as often as asked, from the evaluation prompts", async () => {
  await inFolder(async (outputDir) => {
    const options = { evalDataset: Dataset.fromList(rows.slice(0, 3)) };
    using ppo = await trainer({ numSampleGenerations: 2, outputDir }, options);
    await ppo.train();
    assert.deepEqual(readdirSync(join(outputDir, "completions")), [
      "completions_00001.jsonl",
      "completions_00003.jsonl",
    ]);
    const lines = readFileSync(join(outputDir, "completions", "completions_00001.jsonl"), "utf8")
      .trim()
      .split("\n");
    assert.deepEqual(Object.keys(JSON.parse(lines[0]!) as object), ["step", "prompt", "completion", "score"]);
    assert.equal(lines.length, 3);
  });
});

test("samples that are shown do not count in the metrics of training", async () => {
  const logging: RewardFunction = ({ completions, logMetric }) => {
    logMetric("completions", completions.length);
    return completions.map((_, i) => i % 2);
  };
  await inFolder(async (outputDir) => {
    const options = { rewardModel: logging, evalDataset: Dataset.fromList(rows.slice(0, 3)) };
    using ppo = await trainer({ numSampleGenerations: 2, outputDir, maxSteps: 2 }, options);
    await ppo.train();
    const counts = ppo.state.logHistory.filter((row) => "completions" in row).map(({ completions }) => completions);
    assert.deepEqual(counts, [8, 8]);
  });
});

test("a rollout that was left half way, by a training with other sizes, is made again whole", async () => {
  const calls: { prompts: number[]; seed: number }[] = [];
  const prompts = rows.map(({ prompt }, i) => ({ prompt, ids: [i], columns: {} }));
  const policy = {
    async rollout(some: typeof prompts, seed: number) {
      calls.push({ prompts: some.map(({ ids }) => ids[0]!), seed });
      return { experiences: [], width: 1 };
    },
    state: () => ({}),
    restore: () => {},
  };
  const sizes = { batchSize: 8, miniBatchSize: 8, perDeviceTrainBatchSize: 8, numPpoEpochs: 2, numMiniBatches: 1 };
  const source = new PPOSource(prompts, { ...sizes, seed: 3, shuffleDataset: false }, policy as never);
  for (const skip of [4, 5]) for await (const _ of source.batches(0, 8, skip)) assert.fail("no batches of nothing");
  assert.deepEqual(calls[0]!.prompts, [8, 9, 10, 11, 12, 13, 14, 15]);
  assert.deepEqual(calls[1], calls[0]);
  assert.equal(calls.length, 2);
});

test("a rolloutFunc's completions are checked", async () => {
  const half = rows.slice(0, 8);
  for (const [made, message] of [
    [undefined, /rolloutFunc gave undefined; expected 8 lists of token ids/],
    [[[5]], /rolloutFunc gave 1 completions; expected 8 lists/],
    [half.map((_, i) => (i === 3 ? "t5" : [5])), /completion 3 is a string; expected a list of token ids/],
    [
      half.map((_, i) => (i === 2 ? [5, 61] : [5])),
      /completion 2 has the token 61; expected whole numbers from 0 to 60/,
    ],
    [half.map((_, i) => (i === 2 ? [5, 1.5] : [5])), /completion 2 has the token 1.5; expected whole numbers/],
  ] as const) {
    using ppo = await trainer({}, { rolloutFunc: () => made as never });
    await assert.rejects(ppo.train(), message);
  }
});

test("settings and models that cannot be are refused, with what would work", async () => {
  assert.throws(
    () => new PPOConfig({ perDeviceTrainBatchSize: 8, numMiniBatches: 3 }),
    /8 completions cannot be cut into 3/,
  );
  assert.throws(() => new PPOConfig({ stop_token: "eos", stop_token_id: 2 }), /give stopToken or stopTokenId/);
  assert.throws(
    () => new PPOConfig({ perDeviceTrainBatchSize: 4, whitenRewards: true }),
    /at least 8 completions, found 4/,
  );
  assert.throws(() => new PPOConfig({ evalStrategy: "steps" }), /numSampleGenerations/);
  assert.throws(() => new PPOConfig({ kl_coeff: 1 }), /did you mean "klCoef"/);
  assert.throws(() => new PPOConfig({ klEstimator: "k2" }), /klEstimator/);
  const config = new PPOConfig({ gradient_accumulation_steps: 2, num_mini_batches: 4 });
  assert.deepEqual([config.batchSize, config.miniBatchSize, config.learningRate, config.maxGradNorm], [16, 4, 3e-6, 0]);

  using bare = await tinyPeft(backend);
  const options = {
    tokenizer: wordTokenizer(61),
    rewardModel: evens,
    trainDataset: Dataset.fromList(rows),
    args: ARGS,
  };
  assert.throws(
    () => new PPOTrainer({ ...options, model: bare }),
    /no adapter "value".*await addValueAdapter\(model\)/,
  );
  assert.throws(() => new PPOTrainer({ ...options, model: bare.model as never }), /call getPeftModel first/);
  await bare.addAdapter("value", { r: 2 });
  assert.throws(() => new PPOTrainer({ ...options, model: bare }), /"value" has no score head/);
  await assert.rejects(trainer({}, { rewardModel: "value" }), /"value" is trained: it cannot be the reward model/);
  await assert.rejects(trainer({}, { rewardModel: "judge" }), /no adapter "judge".*it has default, value/);
  await assert.rejects(trainer({ refAdapterName: "old" }), /no adapter "old" to be the reference/);
  await assert.rejects(trainer({ perDeviceTrainBatchSize: 32 }), /there are 16 prompts, but a rollout takes 32/);
  const none: RewardFunction = ({ completions }) => completions.map(() => null);
  using ppo = await trainer({}, { rewardModel: none });
  await assert.rejects(ppo.train(), /"none" gave null for completion 0; PPO needs a number/);
});

const floats = (bytes: Buffer): Float32Array =>
  new Float32Array(bytes.buffer, bytes.byteOffset, Math.floor(bytes.byteLength / 4));
