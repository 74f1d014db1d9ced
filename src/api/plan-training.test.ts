import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openCpuBackend } from "../backends/cpu/backend.ts";
import { collate } from "../data/index.ts";
import { createRandomModel } from "../models/load/random.ts";
import { saveModel } from "../models/save.ts";
import { Optimizer } from "../optim/optimizer.ts";
import { getPeftModel } from "../peft/index.ts";
import { tinyConfig } from "../testing/tiny-model.ts";
import { StepRunner } from "../train/step.ts";
import { asTrainable } from "../train/trainable.ts";
import { planTraining } from "./plan-training.ts";

const folder = mkdtempSync(join(tmpdir(), "unsloth-plan-"));
after(() => rmSync(folder, { recursive: true }));

const CONFIG = tinyConfig("llama", {
  hidden_size: 64,
  intermediate_size: 96,
  head_dim: 16,
  num_hidden_layers: 4,
  max_position_embeddings: 512,
  torch_dtype: "float32",
});
const configFile = join(folder, "config.json");
writeFileSync(configFile, JSON.stringify(CONFIG));
const LORA = { r: 4, modulesToSave: ["lm_head"], targetModules: ["q_proj", "down_proj"], ensureWeightTying: true };
const LENGTH = 128;
const base = { modelName: configFile, maxSeqLength: LENGTH, lora: LORA, threads: 1 };

test("what is planned is what a training takes, byte for byte", async () => {
  const plan = await planTraining({ ...base, eightBit: true });
  using backend = await openCpuBackend({ threads: 1 });
  const lm = await createRandomModel({ config: CONFIG, backend, loadIn4bit: true });
  const { trainables } = asTrainable(await getPeftModel(lm, LORA));
  const adam = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: true };
  const optimizer = new Optimizer(backend, trainables, adam);
  const runner = new StepRunner({ model: lm, optimizer, policy: { kind: "recompute" }, maxPositions: LENGTH });
  const inputIds = new Int32Array(LENGTH).fill(5);
  await runner.train(collate([[{ inputIds, labels: inputIds }]]), 1 / LENGTH, new Uint32Array(2));
  const { tensors, arena } = backend.memory();
  const { weights, adapter, gradients, optimizer: states, constants } = plan.fixed;
  assert.deepEqual(
    [weights, adapter, gradients, states, constants],
    [tensors.weight, tensors.adapter, tensors.gradient, tensors.optimizer, tensors.constant],
  );
  assert.equal(plan.modes.find(({ mode }) => mode === "recompute")!.activations, arena);
});

test("a config.json alone plans as the model's folder does", async () => {
  using backend = await openCpuBackend({ threads: 1 });
  const model = join(folder, "model");
  await saveModel(await createRandomModel({ config: CONFIG, backend }), model);
  const bytes = async (modelName: string) => {
    const { fixed, modes, longest } = await planTraining({ ...base, modelName, memory: 2 ** 30 });
    return { fixed, longest, modes: modes.map(({ mode, total }) => [mode, total]) };
  };
  assert.deepEqual(await bytes(configFile), await bytes(model));
});

test("the longest sequence that fits is that: 64 tokens more do not", async () => {
  const least = async (maxSeqLength: number, memory: number) => {
    const { modes, fits } = await planTraining({ ...base, maxSeqLength, memory });
    return { total: Math.min(...modes.map((mode) => mode.total)), fits };
  };
  const { total: memory } = await least(256, 2 ** 30);
  const plan = await planTraining({ ...base, maxSeqLength: 64, memory });
  assert.equal(plan.longest, 256);
  assert.equal((await least(256, memory)).fits, true);
  assert.equal((await least(320, memory)).fits, false);
  assert.equal((await planTraining({ ...base, memory: 2 ** 40 })).longest, 512, "the model's positions");
  assert.equal((await planTraining({ ...base, memory: 1000 })).longest, 0);
});

test("less memory recomputes more, and takes longer", async () => {
  const { modes: roomy } = await planTraining({ ...base, memory: 2 ** 30 });
  const [keep, recompute, unsloth] = roomy;
  assert.ok(recompute!.activations < keep!.activations);
  assert.ok(
    unsloth!.activations <= keep!.activations && unsloth!.recomputing < 0.05,
    "with room only what is nearly free",
  );
  assert.equal(keep!.recomputing, 0);
  assert.ok(recompute!.recomputing > 0.1 && recompute!.recomputing < 1, `${recompute!.recomputing}`);
  const memory = Math.ceil((keep!.total + recompute!.total) / 2);
  const tight = (await planTraining({ ...base, memory })).modes[2]!;
  assert.ok(tight.fits && tight.total <= memory && tight.total > recompute!.total);
  assert.ok(tight.recomputing > 0 && tight.recomputing < recompute!.recomputing);
});

test("full fine-tuning trains everything in float32", async () => {
  const { fixed, trainable, model } = await planTraining({ ...base, lora: undefined, fullFinetuning: true });
  assert.equal(trainable, model.parameters);
  assert.deepEqual(
    [fixed.weights, fixed.gradients, fixed.optimizer],
    [1, 1, 2].map((n) => n * 4 * trainable),
  );
  assert.equal(fixed.adapter, 0);
});

test("what cannot be planned says why", async () => {
  const wrong = join(folder, "wrong.json");
  writeFileSync(wrong, JSON.stringify({ ...CONFIG, torch_dtype: "float8" }));
  await assert.rejects(
    planTraining({ ...base, modelName: wrong }),
    /wrong\.json: torch_dtype: found "float8"; expected float32/,
  );
  await assert.rejects(planTraining({ ...base, lora: { targetModules: ["q_prj"] } }), /did you mean "q_proj"\?/);
  await assert.rejects(planTraining({ ...base, modelName: "./none" }), /there is no file or folder ".\/none"/);
});
