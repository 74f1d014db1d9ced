import assert from "node:assert/strict";
import { readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { CausalLM } from "../models/model.ts";
import type { PeftModel } from "../peft/index.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import { EarlyStoppingCallback } from "./early-stopping.ts";
import type { HistoryRow } from "./state.ts";
import {
  inFolder,
  openBackend,
  quietTrainer,
  randomRows,
  source,
  tinyPeft,
  trainedBytes,
  withoutSpeed,
} from "./tiny-training.test.support.ts";
import type { Trainer, TrainerOptions } from "./trainer.ts";

const backend = await openBackend();

interface Setup {
  readonly model: (seed: number) => Promise<PeftModel | CausalLM> | CausalLM;
  readonly options: () => Omit<TrainerOptions, "model" | "maxPositions" | "args">;
  readonly args: Record<string, unknown>;
}

/** Large enough for 8-bit states: most tensors have 4096 elements or more. */
const wider = () => tinyModel(backend, "llama", { hidden_size: 64, intermediate_size: 72, num_hidden_layers: 1 });

const SETUPS: Record<string, Setup> = {
  "dropout, noise, packed rows, shuffled, across epochs, mid log row": {
    model: (randomState) => tinyPeft(backend, { loraDropout: 0.2, randomState }),
    options: () => ({ train: source(randomRows(7, 2), { strategy: "random" }) }),
    args: {
      perDeviceTrainBatchSize: 1,
      gradientAccumulationSteps: 2,
      neftuneNoiseAlpha: 5,
      loggingSteps: 3,
      warmupSteps: 2,
      includeNumInputTokensSeen: true,
    },
  },
  "8-bit AdamW of all weights, groups of similar length": {
    model: wider,
    options: () => ({ train: source(randomRows(9), { strategy: "group_by_length" }) }),
    args: {
      perDeviceTrainBatchSize: 2,
      optim: "adamw_8bit",
      weightDecay: 0.1,
      lrSchedulerType: "cosine",
      maxGradNorm: 0.5,
    },
  },
  "reduce_lr_on_plateau and early stopping": {
    model: (randomState) => tinyPeft(backend, { randomState }),
    options: () => ({
      train: source(randomRows(4), { strategy: "random" }),
      evaluation: source(randomRows(3, 1, 9)),
      callbacks: [new EarlyStoppingCallback({ earlyStoppingPatience: 4 })],
    }),
    args: {
      perDeviceTrainBatchSize: 2,
      learningRate: 1,
      lrSchedulerType: "reduce_lr_on_plateau",
      lrSchedulerKwargs: { patience: 0, factor: 0.5 },
      evalStrategy: "steps",
      evalSteps: 1,
      metricForBestModel: "loss",
    },
  },
};

/** Steps at which a run is stopped: within an epoch and at its end. */
const STOPS = [4, 5];
const STEPS = 10;

async function run(
  setup: Setup,
  args: Record<string, unknown>,
  seed: number,
  stopAt?: number,
): Promise<{ weights: Map<string, Buffer>; history: HistoryRow[]; trainer: Trainer }> {
  using model = await setup.model(seed);
  const { callbacks = [], ...options } = setup.options();
  using trainer = quietTrainer(model, {
    ...options,
    args: { ...setup.args, maxSteps: STEPS, ...args },
    callbacks: [
      ...callbacks,
      {
        onStepEnd({ state, control }) {
          if (state.globalStep === stopAt) control.shouldTrainingStop = true;
        },
      },
    ],
  });
  await trainer.train();
  return { weights: await trainedBytes(trainer), history: withoutSpeed(trainer.state.logHistory), trainer };
}

for (const [name, setup] of Object.entries(SETUPS)) {
  test(`resumed = uninterrupted, bit for bit: ${name}`, async () => {
    const straight = await run(setup, {}, 1);
    for (const stop of STOPS) {
      await inFolder(async (outputDir) => {
        const saving = { outputDir, saveStrategy: "steps", saveSteps: stop };
        await run(setup, saving, 1, stop);
        // Another seed: the weights must come from the checkpoint.
        const resumed = await run(setup, { ...saving, saveStrategy: "no", resumeFromCheckpoint: true }, 2);
        assert.deepEqual(resumed.history, straight.history, `stopped after ${stop}`);
        assert.deepEqual([...resumed.weights.keys()], [...straight.weights.keys()]);
        for (const [tensor, bytes] of straight.weights) {
          assert.ok(bytes.equals(resumed.weights.get(tensor)!), `${tensor} differs, stopped after ${stop}`);
        }
      });
    }
  });
}

test("every microbatch draws its own dropout and noise, also where windows are short", async () => {
  const draws: string[] = [];
  const losses: number[] = [];
  for (const seed of [1, 2]) {
    using model = await tinyPeft(backend);
    // One row over and over, windows of 2 and 1 in turn; at rate 0 only dropout and noise tell steps apart.
    const train = source(Array.from({ length: 3 }, () => randomRows(1)[0]!));
    const args = { perDeviceTrainBatchSize: 1, gradientAccumulationSteps: 2, maxSteps: 12, learningRate: 0 };
    using trainer = quietTrainer(model, { train, args: { ...args, neftuneNoiseAlpha: 9, seed } });
    const { runner } = trainer;
    const step = runner.train.bind(runner);
    runner.train = (batch, scale, draw) => {
      draws.push(draw.join());
      return step(batch, scale, draw);
    };
    await trainer.train();
    losses.push(...trainer.state.logHistory.flatMap(({ loss }) => loss ?? []));
  }
  assert.equal(new Set(draws).size, 2 * 18);
  assert.equal(new Set(losses).size, 2 * 12);
});

test("an epoch whose end was cut off gets its evaluation when resumed", async () => {
  const setup: Setup = {
    model: (randomState) => tinyPeft(backend, { randomState }),
    options: () => ({ train: source(randomRows(4)), evaluation: source(randomRows(2, 1, 9)) }),
    args: { perDeviceTrainBatchSize: 1, evalStrategy: "epoch", maxSteps: 8 },
  };
  const straight = await run(setup, { maxSteps: 8 }, 1);
  await inFolder(async (outputDir) => {
    await run(setup, { outputDir, maxSteps: 8, saveStrategy: "steps", saveSteps: 4 }, 1, 4);
    const resumed = await run(
      setup,
      { outputDir, maxSteps: 8, resumeFromCheckpoint: join(outputDir, "checkpoint-4") },
      2,
    );
    assert.deepEqual(resumed.history, straight.history);
  });
});

async function stopped(outputDir: string, args: Record<string, unknown> = {}): Promise<void> {
  using model = await tinyPeft(backend);
  const train = source(randomRows(6));
  using trainer = quietTrainer(model, { train, args: { outputDir, maxSteps: 2, saveStrategy: "steps", ...args } });
  await trainer.train();
}

async function resume(
  outputDir: string,
  args: Record<string, unknown> = {},
  lora: Parameters<typeof tinyPeft>[1] = {},
  rows = 6,
): Promise<Trainer> {
  using model = await tinyPeft(backend, lora);
  const train = source(randomRows(rows));
  using trainer = quietTrainer(model, { train, args: { outputDir, maxSteps: 4, ...args } });
  await trainer.train({ resumeFromCheckpoint: true });
  return trainer;
}

test("a checkpoint holds what people and PEFT look for", async () => {
  await inFolder(async (outputDir) => {
    await stopped(outputDir);
    assert.deepEqual(readdirSync(outputDir), ["checkpoint-2"]);
    assert.deepEqual(readdirSync(join(outputDir, "checkpoint-2")).sort(), [
      "adapter_config.json",
      "adapter_model.safetensors",
      "optimizer.safetensors",
      "trainer_state.json",
      "training_args.json",
      "training_state.json",
    ]);
  });
});

test("what cannot be resumed from is named", async () => {
  await inFolder(async (outputDir) => {
    await assert.rejects(resume(outputDir), /there is no checkpoint-N folder in/);
    await stopped(outputDir, { saveOnlyModel: true });
    await assert.rejects(resume(outputDir), /training_state\.json: file: found no such file: .*saveOnlyModel/);
    await stopped(outputDir);
    const folder = join(outputDir, "checkpoint-2");
    await assert.rejects(
      resume(outputDir, {}, { r: 3 }),
      /optimizer\.safetensors: tensor ".*lora_A.*": found F32\[2,24\]; expected F32\[3,24\]/,
    );
    await assert.rejects(
      resume(outputDir, {}, { targetModules: ["q_proj"] }),
      /optimizer\.safetensors: tensors: found ".*"; expected only tensors/,
    );
    writeFileSync(join(folder, "trainer_state.json"), '{"global_step": "two", "log_history": []}');
    await assert.rejects(resume(outputDir), /trainer_state\.json: global_step: found "two"; expected a number/);
    writeFileSync(join(folder, "trainer_state.json"), '{"global_step": 2,');
    await assert.rejects(resume(outputDir), /trainer_state\.json: contents: found invalid JSON/);
    rmSync(join(folder, "trainer_state.json"));
    await assert.rejects(resume(outputDir), /trainer_state\.json: file: found no such file/);
  });
});

test("resuming with other settings or data warns, naming them", async () => {
  await inFolder(async (outputDir) => {
    await stopped(outputDir);
    const warnings: string[] = [];
    const listen = (warning: Error): void => void warnings.push(warning.message);
    process.on("warning", listen);
    const trainer = await resume(outputDir, { seed: 5 }, {}, 7);
    await new Promise((resolve) => setImmediate(resolve));
    process.off("warning", listen);
    assert.equal(trainer.state.globalStep, 4);
    assert.equal(warnings.length, 1);
    assert.match(warnings[0]!, /rows was 6 and is 7/);
    assert.match(warnings[0]!, /seed was 42 and is 5/);
  });
});

test("the folder may have moved", async () => {
  await inFolder(async (outer) => {
    const args = { evalStrategy: "steps", evalSteps: 1, saveSteps: 1, metricForBestModel: "loss" };
    using model = await tinyPeft(backend);
    const data = { train: source(randomRows(6)), evaluation: source(randomRows(2, 1, 9)) };
    const outputDir = join(outer, "a");
    using first = quietTrainer(model, { ...data, args: { ...args, outputDir, maxSteps: 2, saveStrategy: "steps" } });
    await first.train();
    const moved = join(outer, "b");
    renameSync(outputDir, moved);
    using second = quietTrainer(model, { ...data, args: { ...args, outputDir: moved, maxSteps: 3, learningRate: 0 } });
    await second.train({ resumeFromCheckpoint: true });
    assert.equal(second.state.bestModelCheckpoint, join(moved, `checkpoint-${second.state.bestGlobalStep}`));
  });
});
