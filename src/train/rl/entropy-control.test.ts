import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { Dataset } from "../../data/index.ts";
import { inFolder, openBackend, tinyPeft, trainedBytes, withoutSpeed } from "../tiny-training.test.support.ts";
import { EntropyControl } from "./entropy-control.ts";
import { GRPOTrainer } from "./grpo.ts";
import { wordTokenizer } from "./rl.test.support.ts";
import { sampleBatch } from "./samples.ts";

const SETTINGS = {
  entropyCoef: 0.1,
  useAdaptiveEntropy: true,
  entropyCoefMin: 0.09,
  entropyCoefMax: 0.12,
  entropyCoefDelta: 0.02,
  entropyTarget: 1,
};
const sample = { prompt: [4], completion: [5, 6], advantage: 1, trained: true, old: null, ref: null };
const batch = sampleBatch([sample], 2);
/** Entropies of the batch's tokens; those that predict nothing do not count. */
const entropies = (first: number, second: number): Float32Array => {
  const all = new Float32Array(batch.inputIds.length).fill(99);
  all.set([first, second]);
  return all;
};

test("the weight follows the mean entropy of an update's tokens, between its bounds", () => {
  const control = new EntropyControl(SETTINGS);
  assert.equal(control.applied, 0, "before the first update");
  control.observe(entropies(0.5, 1.5), batch);
  control.observe(entropies(0.9, 1.1), batch);
  assert.equal(control.updated(), 0.12);
  assert.equal(control.applied, 0.12);
  control.observe(entropies(2, 2), batch);
  assert.ok(Math.abs(control.updated() - 0.1) < 1e-12);
  assert.equal(control.applied, 0, "above the target");
  const other = new EntropyControl(SETTINGS);
  other.restore(control.state(), "file");
  assert.deepEqual([other.applied, other.state()], [control.applied, control.state()]);
  control.observe(entropies(2, 2), batch);
  assert.equal(control.updated(), 0.09);
  assert.throws(() => other.restore(undefined, "file"), /file: entropy: found nothing/);
});

test("without control the weight stays", () => {
  const control = new EntropyControl({ ...SETTINGS, useAdaptiveEntropy: false });
  assert.equal(control.applied, 0.1);
  control.observe(entropies(9, 9), batch);
  assert.equal(control.updated(), 0.1);
  // As with other settings, a training that is resumed goes by what it is given now.
  const other = new EntropyControl({ ...SETTINGS, useAdaptiveEntropy: false, entropyCoef: 0.3 });
  other.restore(control.state(), "file");
  assert.equal(other.applied, 0.3);
});

const backend = await openBackend();

async function trainer(args: object): Promise<GRPOTrainer> {
  return new GRPOTrainer({
    model: await tinyPeft(backend),
    tokenizer: wordTokenizer(61),
    rewardFuncs: ({ completionIds }) => completionIds.map(([id]) => id! % 2),
    trainDataset: Dataset.fromList([{ prompt: "t4 t5" }, { prompt: "t6" }, { prompt: "t7" }, { prompt: "t8" }]),
    evalDataset: Dataset.fromList([{ prompt: "t9" }]),
    args: {
      perDeviceTrainBatchSize: 4,
      gradientAccumulationSteps: 2,
      numGenerations: 4,
      maxCompletionLength: 4,
      learningRate: 1e-2,
      loggingSteps: 1,
      maxSteps: 6,
      logLevel: "error",
      ...args,
    },
  });
}

test("an adaptive bonus goes on from a checkpoint to the bit, and evaluations leave it alone", async () => {
  const bonus = { useAdaptiveEntropy: true, entropyCoef: 0.1, entropyCoefDelta: 0.01, entropyTarget: 4 };
  await inFolder(async (folder) => {
    const whole = join(folder, "whole");
    using first = await trainer({ ...bonus, outputDir: whole, saveSteps: 2 });
    await first.train();
    using second = await trainer({ ...bonus, outputDir: join(folder, "resumed"), saveStrategy: "no" });
    await second.train({ resumeFromCheckpoint: join(whole, "checkpoint-4") });
    assert.deepEqual(await trainedBytes(second), await trainedBytes(first));
    assert.deepEqual(withoutSpeed(second.state.logHistory), withoutSpeed(first.state.logHistory));
    const evaluation = { evalStrategy: "steps", evalSteps: 2, perDeviceEvalBatchSize: 4, saveStrategy: "no" };
    using evaluated = await trainer({ ...bonus, ...evaluation });
    await evaluated.train();
    assert.deepEqual(await trainedBytes(evaluated), await trainedBytes(first));
    const row = evaluated.state.logHistory.find((one) => "eval_loss" in one)!;
    assert.ok(Number.isFinite(row.eval_policy_loss));
  });
});

test("a bonus keeps the entropy up", async () => {
  const last = async (entropyCoef: number): Promise<number> => {
    using grpo = await trainer({ entropyCoef, maxSteps: 12, learningRate: 3e-2, saveStrategy: "no" });
    await grpo.train();
    return grpo.state.logHistory.findLast((row) => "entropy" in row)!.entropy!;
  };
  const [without, bonus] = [await last(0), await last(1)];
  assert.ok(bonus > without + 0.02, `entropy ${without} without the bonus, ${bonus} with it`);
});
