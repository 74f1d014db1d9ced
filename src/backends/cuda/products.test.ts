import assert from "node:assert/strict";
import { test } from "node:test";
import { collate, Dataset } from "../../data/index.ts";
import type { FloatDType } from "../../graph/types.ts";
import type { CausalLM } from "../../models/model.ts";
import { addScoreHead } from "../../models/score-head.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { getPeftModel, type PeftModel } from "../../peft/index.ts";
import { checkOpCase, OP_CASES } from "../../testing/op-cases.ts";
import { allTrainables, tinyModel } from "../../testing/tiny-model.ts";
import type { ComputeLoss } from "../../train/loss.ts";
import * as ops from "../../train/loss-ops.ts";
import { collatePairs } from "../../train/reward/pairs.ts";
import { RewardTrainer } from "../../train/reward/reward-trainer.ts";
import { GRPOTrainer } from "../../train/rl/grpo.ts";
import { addValueAdapter, PPOTrainer } from "../../train/rl/ppo.ts";
import { wordTokenizer } from "../../train/rl/rl.test.support.ts";
import { StepRunner } from "../../train/step.ts";
import { randomRow } from "../../train/tiny-training.test.support.ts";
import { CollectingBackend, NotRun, ZerosBackend } from "./collect.test.support.ts";

/** Programs of all kinds lower to products that cuBLASLt has algorithms for: CollectingBackend throws at any other. */

const ADAM = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
const ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const QUIET = { maxSteps: 1, logLevel: "error", disableTqdm: true, reportTo: "none", saveStrategy: "no" } as const;

const ADAPTERS: Readonly<Record<string, object>> = {
  LoRA: { r: 4, targetModules: ALL },
  "LoRA with dropout, of the head and the embedding": {
    r: 4,
    loraDropout: 0.1,
    targetModules: [...ALL, "lm_head", "embed_tokens"],
  },
  DoRA: { useDora: true, r: 4, targetModules: ALL },
  "DoRA with dropout": { useDora: true, r: 4, loraDropout: 0.1, targetModules: ALL },
  "DoRA of the head and the embedding": { useDora: true, r: 4, targetModules: ["q_proj", "lm_head", "embed_tokens"] },
  AdaLoRA: { peftType: "ADALORA", initR: 4, targetR: 2, targetModules: ALL },
  "trained embedding and head": { r: 4, targetModules: ALL, modulesToSave: ["embed_tokens", "lm_head"] },
};

/** A loss over all logits, and over log-probabilities of labels. */
const overLogits: ComputeLoss = ({ trace, hidden, logits, labels, lossScale }) => {
  const entropy = ops.sum(ops.mul(ops.exp(ops.logSoftmax(logits())), logits()));
  return { loss: ops.mul(ops.add(entropy, ops.sum(trace.logProbs(hidden(), { labels }).logps)), lossScale) };
};

async function step(model: CausalLM, trainables: ReturnType<typeof allTrainables>): Promise<void> {
  const optimizer = new Optimizer(model.backend, trainables, ADAM);
  // Kernels and joined products differ by how many rows there are.
  for (const length of [9, 1024]) {
    const batch = collate([[randomRow(length, 1)]]);
    for (const computeLoss of [undefined, overLogits]) {
      const policy = { kind: length === 9 ? "keep" : "recompute" } as const;
      const runner = new StepRunner({ model, optimizer, policy, maxPositions: 1024, computeLoss });
      await assert.rejects(runner.train(batch, 1, new Uint32Array(2)), NotRun);
      await assert.rejects(runner.predict(batch, 1), NotRun);
      await assert.rejects(runner.logits(new Float32Array(length * model.config.hiddenSize)), NotRun);
    }
  }
}

const wide = { hidden_size: 128, intermediate_size: 256, head_dim: 32, num_hidden_layers: 1 };

for (const [dtype, capability] of [
  ["bf16", 90],
  ["f16", 75],
] as readonly (readonly [FloatDType, number])[]) {
  test(`ops ask for products that the library has, activations in ${dtype}`, async () => {
    const backend = new CollectingBackend(dtype, capability);
    for (const spec of Object.values(OP_CASES)) await assert.rejects(checkOpCase(backend, spec, dtype), NotRun);
    assert.ok(backend.products.size > 10);
  });

  for (const [name, options] of Object.entries(ADAPTERS)) {
    test(`${name}: products that the library has, activations in ${dtype}`, async () => {
      for (const storage of name === "LoRA" ? (["f32", dtype, "nf4", "int8"] as const) : (["f32", "nf4"] as const)) {
        const backend = new CollectingBackend(dtype, capability);
        const model = tinyModel(backend, "qwen2", { ...wide, tie_word_embeddings: false });
        for (const [weight, { shape }] of model.parameters) {
          if (!weight.endsWith("_proj.weight") || storage === "f32") continue;
          model.parameters.set(weight, backend.createTensor(weight, storage, shape, { role: "weight" }));
        }
        const peft = await getPeftModel(model, options);
        await step(model, peft.trainable());
        assert.ok([...backend.products.values()].some(({ input, output }) => input === dtype && output === dtype));
      }
    });
  }

  test(`full fine-tuning: products that the library has, activations in ${dtype}`, async () => {
    const model = tinyModel(new CollectingBackend(dtype, capability), "gemma2", wide);
    await step(model, allTrainables(model));
  });

  const tiny = (): Promise<PeftModel> =>
    getPeftModel(tinyModel(new ZerosBackend(dtype, capability), "llama", wide), { r: 4, targetModules: ALL });
  const trainDataset = Dataset.fromList(Array.from({ length: 8 }, (_, i) => ({ prompt: `t${4 + i} t5` })));
  const zero = ({ completionIds }: { completionIds: readonly unknown[] }): number[] => completionIds.map(() => 0);
  const tokenizer = wordTokenizer(61);

  test(`a score head: products that the library has, activations in ${dtype}`, async () => {
    const model = tinyModel(new ZerosBackend(dtype, capability), "llama", wide);
    addScoreHead(model);
    const peft = await getPeftModel(model, { r: 4, targetModules: ALL, taskType: "SEQ_CLS" });
    const pair = { chosenIds: Int32Array.of(1, 2, 3), rejectedIds: Int32Array.of(1, 2, 4), margin: 0 };
    using trainer = new RewardTrainer({ model: peft, trainDataset: [pair, pair], args: QUIET });
    await trainer.runner.train(collatePairs([pair]), 1, new Uint32Array(2));
  });

  test(`PPO with a value head, and GRPO: products that the library has, activations in ${dtype}`, async () => {
    const model = await tiny();
    await addValueAdapter(model);
    const args = { ...QUIET, perDeviceTrainBatchSize: 8 };
    using ppo = new PPOTrainer({
      model,
      tokenizer,
      trainDataset,
      rewardModel: zero,
      args: { ...args, responseLength: 4, numPpoEpochs: 1 },
    });
    await ppo.train();
    using grpo = new GRPOTrainer({
      model: await tiny(),
      tokenizer,
      trainDataset,
      rewardFuncs: zero,
      args: { ...args, numGenerations: 4, maxCompletionLength: 4, beta: 0.1 },
    });
    await grpo.train();
  });
}

for (const capability of [75, 80, 86, 89, 90, 100, 120]) {
  test(`blocks have the shared memory that kernels want, compute capability ${capability / 10}`, async () => {
    for (const r of [8, 32]) {
      for (const head_dim of [64, 256]) {
        const backend = new CollectingBackend(capability < 80 ? "f16" : "bf16", capability);
        const model = tinyModel(backend, "qwen3", { ...wide, head_dim, intermediate_size: 512 });
        await step(model, (await getPeftModel(model, { r, targetModules: ALL })).trainable());
        const own = [...backend.launches.values()].some(({ file }) => file === "lora_grad");
        assert.equal(own, capability >= 80);
      }
    }
  });
}
