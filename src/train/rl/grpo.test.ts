import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Dataset } from "../../data/index.ts";
import { relativeError } from "../../testing/kernels.ts";
import { inFolder, openBackend, tinyPeft, trainedBytes, withoutSpeed } from "../tiny-training.test.support.ts";
import { GRPOConfig, GRPOTrainer, type GRPOTrainerOptions, type RewardFunction } from "./grpo.ts";
import { wordTokenizer } from "./rl.test.support.ts";

const backend = await openBackend();
const rows = Array.from({ length: 6 }, (_, i) => ({
  prompt: Array.from({ length: 2 + (i % 3) }, (_, t) => `t${4 + ((7 * i + 11 * t) % 57)}`).join(" "),
  answer: i,
}));

/** Share of even ids. */
const evens: RewardFunction = ({ completionIds }) =>
  completionIds.map((ids) => ids.filter((id) => id % 2 === 0).length / ids.length);

const ARGS = {
  perDeviceTrainBatchSize: 8,
  numGenerations: 4,
  maxCompletionLength: 6,
  maxSteps: 4,
  learningRate: 1e-2,
  loggingSteps: 1,
  saveStrategy: "no" as const,
  logLevel: "error" as const,
};

async function trainer(
  args: GRPOTrainerOptions["args"] = {},
  options: Partial<GRPOTrainerOptions> = {},
): Promise<GRPOTrainer> {
  return new GRPOTrainer({
    model: await tinyPeft(backend),
    tokenizer: wordTokenizer(61),
    rewardFuncs: evens,
    trainDataset: Dataset.fromList(rows),
    ...options,
    args: { ...ARGS, ...(args as object) },
  });
}

test("the reward rises", async () => {
  using grpo = await trainer({ maxSteps: 30, learningRate: 3e-2, perDeviceTrainBatchSize: 16, lossType: "grpo" });
  await grpo.train();
  const rewards = grpo.state.logHistory.filter((row) => "reward" in row).map((row) => row.reward!);
  const mean = (some: number[]): number => some.reduce((sum, x) => sum + x, 0) / some.length;
  const [before, after] = [mean(rewards.slice(0, 3)), mean(rewards.slice(-3))];
  assert.ok(after > before + 0.25, `rewards went from ${before} to ${after}`);
});

test("a step of 8 completions is one of 2×4, whatever the loss divides by", async () => {
  for (const lossType of ["grpo", "dapo", "dr_grpo", "luspo"] as const) {
    const weights: Map<string, Buffer>[] = [];
    const losses: number[][] = [];
    for (const [size, accumulation] of [
      [8, 1],
      [4, 2],
    ] as const) {
      using grpo = await trainer({
        lossType,
        importanceSamplingLevel: lossType === "luspo" ? "sequence" : "token",
        beta: 0.1,
        adamEpsilon: 1e-3,
        perDeviceTrainBatchSize: size,
        gradientAccumulationSteps: accumulation,
      });
      await grpo.train();
      weights.push(await trainedBytes(grpo));
      losses.push(grpo.state.logHistory.filter((row) => "loss" in row).map((row) => row.loss!));
    }
    losses[0]!.forEach((loss, i) => assert.ok(Math.abs(loss - losses[1]![i]!) < 1e-5, `${lossType}: ${loss}`));
    for (const [name, bytes] of weights[0]!) {
      const [a, b] = [floats(bytes), floats(weights[1]!.get(name)!)];
      const error = relativeError(b, a);
      assert.ok(error <= 1e-4, `${lossType}: ${name}: relative error ${error}`);
    }
  }
});

test("a run resumed in the middle of a generation is the one that was not stopped, to the bit", async () => {
  const args = {
    perDeviceTrainBatchSize: 4,
    stepsPerGeneration: 2,
    numIterations: 2,
    beta: 0.05,
    maxSteps: 10,
    loggingSteps: 2,
    logCompletions: true,
    topEntropyQuantile: 0.7,
  };
  await inFolder(async (folder) => {
    const whole = join(folder, "whole");
    using first = await trainer({ ...args, outputDir: whole, saveStrategy: "steps", saveSteps: 3 });
    await first.train();
    // Step 3 is the third of a generation's four microbatches, and no multiple of loggingSteps.
    using second = await trainer({ ...args, outputDir: join(folder, "resumed") });
    await second.train({ resumeFromCheckpoint: join(whole, "checkpoint-3") });
    assert.deepEqual(await trainedBytes(second), await trainedBytes(first));
    assert.deepEqual(withoutSpeed(second.state.logHistory), withoutSpeed(first.state.logHistory));
    const completions = (name: string): string =>
      readFileSync(join(folder, name, "completions", "completions_00004.jsonl"), "utf8");
    assert.equal(completions("resumed"), completions("whole"));
  });
});

test("a generation of another size, left half way, is made again", async () => {
  await inFolder(async (outputDir) => {
    const half = {
      perDeviceTrainBatchSize: 4,
      numGenerations: 4,
      stepsPerGeneration: 2,
      saveStrategy: "steps" as const,
      saveSteps: 1,
    };
    using first = await trainer({ ...half, outputDir, maxSteps: 1 });
    await first.train();
    const sizes: number[] = [];
    const counting: RewardFunction = ({ completions }) => {
      sizes.push(completions.length);
      return completions.map((_, i) => i);
    };
    const longer = { ...half, stepsPerGeneration: 4, outputDir, maxSteps: 4, resumeFromCheckpoint: true };
    using second = await trainer(longer, { rewardFuncs: counting });
    await second.train();
    assert.deepEqual(sizes, [16]);
    assert.equal(second.state.globalStep, 4);
  });
});

test("the same seed makes the same completions, another one others", async () => {
  const seen: string[] = [];
  for (const seed of [1, 1, 2]) {
    const drawn: number[][] = [];
    const record: RewardFunction = ({ completionIds }) => {
      drawn.push(...completionIds.map((ids) => [...ids]));
      return completionIds.map(() => 0);
    };
    using grpo = await trainer({ seed, maxSteps: 2, learningRate: 0, shuffleDataset: false }, { rewardFuncs: record });
    await grpo.train();
    assert.notDeepEqual(drawn.slice(0, 8), drawn.slice(8, 16));
    seen.push(JSON.stringify(drawn));
  }
  assert.equal(seen[0], seen[1]);
  assert.notEqual(seen[0], seen[2]);
});

test("conversations: reward functions get messages, the columns, and may be async and log", async () => {
  const data = Dataset.fromList(
    rows.map(({ prompt, answer }) => ({ prompt: [{ role: "user", content: prompt }], answer })),
  );
  const calls: Record<string, unknown>[] = [];
  async function judged(batch: Parameters<RewardFunction>[0]): Promise<(number | null)[]> {
    await new Promise((resolve) => setImmediate(resolve));
    calls.push({ ...batch, step: batch.trainerState.globalStep });
    batch.logMetric("answers", Number(batch.answer![0]));
    batch.logExtra("row", batch.answer!);
    return batch.completions.map((_, i) => (i === 0 ? null : i % 3));
  }
  await inFolder(async (outputDir) => {
    const args = { maxSteps: 1, shuffleDataset: false, logCompletions: true, outputDir, rewardWeights: [2, 1] };
    using grpo = await trainer(args, { rewardFuncs: [judged, evens], trainDataset: data });
    await grpo.train();
    const [batch] = calls as [Parameters<RewardFunction>[0] & { step: number }];
    assert.deepEqual(batch.prompts[4], [{ role: "user", content: rows[1]!.prompt }]);
    assert.equal((batch.completions[0] as { role: string }[])[0]!.role, "assistant");
    assert.deepEqual(batch.answer, [0, 0, 0, 0, 1, 1, 1, 1]);
    assert.equal(batch.step, 0);
    const [row] = grpo.state.logHistory;
    assert.equal(row!.answers, 0);
    assert.equal(row!["rewards/judged/mean"], (1 + 2 + 0 + 1 + 2 + 0 + 1) / 7);
    const lines = readFileSync(join(outputDir, "completions", "completions_00001.jsonl"), "utf8")
      .trim()
      .split("\n");
    const first = JSON.parse(lines[0]!) as Record<string, unknown>;
    assert.deepEqual(Object.keys(first), ["step", "prompt", "completion", "judged", "evens", "row", "advantage"]);
    assert.equal(first.judged, null);
    assert.equal(lines.length, 8);
  });
});

test("what reward functions log does not depend on which ends first", async () => {
  const lists: { columns: string[]; note: unknown; shared: number }[] = [];
  for (const slow of [0, 1]) {
    const judge = (index: number): RewardFunction =>
      async function judged({ completions, logExtra, logMetric }) {
        if (index === slow) await new Promise((resolve) => setTimeout(resolve, 5));
        logExtra(`own${index}`, completions);
        logExtra(
          "note",
          completions.map(() => index),
        );
        // Their mean depends on the order in which they are added up.
        for (const value of index === 0 ? [0.1] : [0.2, 0.3]) logMetric("shared", value);
        return completions.map((_, i) => i % 2);
      };
    await inFolder(async (outputDir) => {
      const args = { maxSteps: 1, logCompletions: true, outputDir };
      using grpo = await trainer(args, { rewardFuncs: [judge(0), judge(1)] });
      await grpo.train();
      const file = readFileSync(join(outputDir, "completions", "completions_00001.jsonl"), "utf8");
      const first = JSON.parse(file.split("\n")[0]!) as Record<string, unknown>;
      lists.push({ columns: Object.keys(first), note: first.note, shared: grpo.state.logHistory[0]!.shared! });
    });
  }
  assert.deepEqual(lists[1], lists[0]);
  assert.deepEqual(lists[0]!.columns.slice(5), ["own0", "note", "own1", "advantage"]);
  assert.equal(lists[0]!.note, 1);
});

test("evaluation samples, scores and logs; training goes on as if there had been none", async () => {
  const evaluation = { evalDataset: Dataset.fromList(rows.slice(0, 3)) };
  const args = { numGenerationsEval: 2, perDeviceEvalBatchSize: 4, beta: 0.1 };
  using plain = await trainer({ beta: 0.1 });
  using evaluated = await trainer({ ...args, evalStrategy: "steps", evalSteps: 2 }, evaluation);
  await plain.train();
  await evaluated.train();
  assert.deepEqual(await trainedBytes(evaluated), await trainedBytes(plain));
  const row = evaluated.state.logHistory.find((one) => "eval_loss" in one)!;
  for (const key of [
    "reward",
    "reward_std",
    "rewards/evens/mean",
    "completions/mean_length",
    "entropy",
    "kl",
    "num_tokens",
  ]) {
    assert.ok(Number.isFinite(row[`eval_${key}`]), `eval_${key} is ${row[`eval_${key}`]}`);
  }
  // At the sampling policy ratios are 1 and advantages sum to 0: what is left is the KL term.
  assert.ok(Math.abs(row.eval_loss! - 0.1 * row.eval_kl!) < 1e-4);
});

test("another adapter is the reference", async () => {
  const model = await tinyPeft(backend, { initLoraWeights: false });
  const kl = async (refAdapterName: string | null, refModel?: "base"): Promise<number> => {
    using grpo = await trainer({ beta: 0.1, maxSteps: 1, learningRate: 0, refAdapterName }, { model, refModel });
    await grpo.train();
    return grpo.state.logHistory[0]!.kl!;
  };
  const { r, loraAlpha, targetModules, randomState } = model.adapter.config;
  // The same random numbers as the policy's own.
  await model.addAdapter("twin", { r, loraAlpha, targetModules, randomState, initLoraWeights: false });
  assert.ok((await kl(null, "base")) > 1e-3);
  // The adapter as it is before training, which is what it still is.
  assert.ok(Math.abs(await kl(null)) < 1e-6);
  assert.ok(Math.abs(await kl("twin")) < 1e-6);
  await assert.rejects(kl("default"), /that adapter is the one being trained/);
  await assert.rejects(kl("other"), /no such adapter; it has default, twin/);
  await assert.rejects(kl("twin", "base"), /refModel or refAdapterName, not both/);
});

test("prompts longer than maxPromptLength keep their end", async () => {
  const seen: number[][] = [];
  using grpo = await trainer(
    { maxPromptLength: 2, maxSteps: 1, shuffleDataset: false },
    {
      rolloutFunc: ({ promptIds, numGenerations }) => {
        seen.push(...promptIds.map((ids) => [...ids]));
        return promptIds.flatMap(() => Array.from({ length: numGenerations }, (_, i) => [5, 4 + i]));
      },
    },
  );
  await grpo.train();
  const words = rows.map(({ prompt }) => prompt.split(" ").map((word) => Number(word.slice(1))));
  assert.deepEqual(seen[1], words[1]!.slice(-2));
});

test("a reward function that fails, or gives what is no reward, is named", async () => {
  const cases: [RewardFunction, RegExp][] = [
    [
      function broken() {
        throw new Error("no verifier");
      },
      /reward function "broken" failed: no verifier/,
    ],
    [
      async function rejected() {
        throw new Error("timeout");
      },
      /reward function "rejected" failed: timeout/,
    ],
    [
      function few() {
        return [1];
      },
      /"few" gave 1 rewards for 8 completions/,
    ],
    [
      function nan({ completions }) {
        return completions.map((_, i) => (i === 3 ? Number.NaN : 1));
      },
      /"nan" gave NaN for completion 3; expected a finite number, or null/,
    ],
    [
      function text({ completions }) {
        return completions.map(() => "1") as unknown as number[];
      },
      /"text" gave string for completion 0/,
    ],
  ];
  for (const [rewardFuncs, message] of cases) {
    using grpo = await trainer({}, { rewardFuncs });
    await assert.rejects(grpo.train(), message);
  }
});

test("settings that cannot be are refused, with what would work", async () => {
  assert.throws(() => new GRPOConfig({ perDeviceTrainBatchSize: 6 }), /does not hold whole groups of numGenerations 8/);
  assert.throws(() => new GRPOConfig({ numGenerations: 1 }), /at least 2/);
  assert.throws(() => new GRPOConfig({ generationBatchSize: 8, stepsPerGeneration: 1 }), /give one of them/);
  assert.throws(() => new GRPOConfig({ generationBatchSize: 12 }), /multiple of perDeviceTrainBatchSize/);
  assert.throws(
    () => new GRPOConfig({ num_generation: 4 }),
    /GRPOConfig: unknown option "numGeneration"; did you mean "numGenerations"/,
  );
  assert.throws(() => new GRPOConfig({ use_vllm: true }), /useVllm true cannot be had: this library generates itself/);
  assert.throws(() => new GRPOConfig({ syncRefModel: true }), /syncRefModel true cannot be had/);
  assert.throws(() => new GRPOConfig({ lossType: "ppo" }), /lossType/);
  const config = new GRPOConfig({ per_device_train_batch_size: 4, generation_batch_size: 16, scale_rewards: false });
  assert.deepEqual([config.stepsPerGeneration, config.scaleRewards, config.epsilonHigh], [4, "none", 0.2]);
  assert.equal(config.learningRate, 1e-6);
  await assert.rejects(
    trainer({}, { trainDataset: Dataset.fromList(rows.slice(0, 1)) }),
    /there are 1 prompts, but a generation takes 2/,
  );
  await assert.rejects(trainer({}, { trainDataset: Dataset.fromList([{ text: "t4" }]) }), /row 0.*prompt/s);
  await assert.rejects(trainer({ maxCompletionLength: 500 }), /more than the model's 128 positions/);
  await assert.rejects(trainer({ rewardWeights: [1, 2] }), /2 rewardWeights for 1 reward functions/);
  await assert.rejects(trainer({}, { rewardFuncs: [] }), /rewardFuncs is empty/);
});

const floats = (bytes: Buffer): Float32Array =>
  new Float32Array(bytes.buffer, bytes.byteOffset, Math.floor(bytes.byteLength / 4));
