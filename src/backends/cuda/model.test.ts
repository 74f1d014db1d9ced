import assert from "node:assert/strict";
import { test } from "node:test";
import { DecodingSession } from "../../generate/session.ts";
import type { FloatDType } from "../../graph/types.ts";
import { loadModel } from "../../models/load/load.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { PeftModel } from "../../peft/index.ts";
import { relativeError } from "../../testing/kernels.ts";
import { forwardLogits } from "../../testing/model-run.ts";
import { oracleFloats, oracleJson, oraclePath, oracleTensors } from "../../testing/oracle.ts";
import { type OracleBatch, oracleBatch } from "../../testing/oracle-batch.ts";
import { StepRunner } from "../../train/step.ts";
import { asTrainable } from "../../train/trainable.ts";
import { gpu, skip } from "./gpu.test.support.ts";

const FAMILIES = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2"];
const OPTIMIZER = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
/** Largest relative error of a loss and of a gradient tensor. bf16 keeps 8 bits of every activation. */
const TOLERANCE: Record<FloatDType, { loss: number; gradient: number; logits: number }> = {
  f32: { loss: 1e-5, gradient: 1e-4, logits: 1e-4 },
  bf16: { loss: 1e-2, gradient: 0.05, logits: 5e-2 },
  f16: { loss: 2e-3, gradient: 2e-2, logits: 1e-2 },
};

interface Expected {
  readonly batch: OracleBatch;
  readonly lora: { readonly loss: number; readonly target_tokens: number };
  readonly base: { readonly loss: number; readonly target_tokens: number };
}

for (const dtype of ["f32", "bf16"] as const) {
  const tolerance = TOLERANCE[dtype];
  for (const family of FAMILIES) {
    test(`${family}: loss and every LoRA gradient equal transformers + peft (CUDA, ${dtype})`, { skip }, async () => {
      const expected = oracleJson<Expected>("families", family, "expect.json");
      const tensors = oracleTensors("families", family, "expect.safetensors");
      const backend = gpu(dtype);
      backend.poison = true;
      const base = await loadModel({ path: oraclePath("families", family, "model"), backend });
      using model = await PeftModel.fromPretrained(base, oraclePath("families", family, "adapter"), {
        isTrainable: true,
      });
      const optimizer = new Optimizer(backend, model.trainable(), OPTIMIZER);
      const runner = new StepRunner({ model: base, optimizer, policy: { kind: "recompute" }, maxPositions: 32 });
      const scale = 1 / expected.lora.target_tokens;
      const { loss, metrics } = await runner.train(oracleBatch(expected.batch), scale, new Uint32Array(2));
      assert.equal(metrics?.targets, expected.lora.target_tokens);
      assert.ok(Math.abs(loss / expected.lora.loss - 1) <= tolerance.loss, `${loss}, expected ${expected.lora.loss}`);
      let [difference, total] = [0, 0];
      for (const trainable of optimizer.trainables) {
        const gradient = new Float32Array((await optimizer.gradient(trainable).read()).buffer);
        const want = oracleFloats(tensors, `grad.${trainable.name}`);
        want.forEach((x, i) => {
          difference += (gradient[i]! - x) ** 2;
          total += x ** 2;
        });
        // In bf16 a tensor of small gradients may be mostly rounding; all of them together may not.
        const error = relativeError(gradient, want);
        if (dtype === "f32") assert.ok(error <= tolerance.gradient, `${trainable.name}: relative error ${error}`);
      }
      const error = Math.sqrt(difference / total);
      assert.ok(error <= tolerance.gradient, `all gradients together: relative error ${error}`);
      runner.dispose();
      optimizer.dispose();
    });
  }

  test(`logits of packed sequences and of decoding with a cache agree (CUDA, ${dtype})`, { skip }, async () => {
    for (const family of FAMILIES) {
      const backend = gpu(dtype);
      using model = await loadModel({ path: oraclePath("families", family, "model"), backend });
      const prompts = [
        [3, 14, 15, 9],
        [26, 5, 35, 8, 9, 7, 9],
      ];
      const next = [3, 2];
      using session = new DecodingSession(model, 2, 16);
      const prefilled = await session.prefill(prompts);
      const decoded = await session.decode(next);
      const whole = await forwardLogits(
        model,
        prompts.map((prompt, i) => [...prompt, next[i]!]),
      );
      const vocab = model.config.vocabSize;
      prompts.forEach((prompt, i) => {
        const row = (at: number) => whole[i]!.subarray(at * vocab, (at + 1) * vocab);
        const errors = [
          relativeError(prefilled[i]!, row(prompt.length - 1)),
          relativeError(decoded[i]!, row(prompt.length)),
        ];
        for (const error of errors) assert.ok(error <= tolerance.logits, `${family}: relative error ${error}`);
      });
    }
  });
}

test("full fine-tuning: every weight's gradient equals transformers (CUDA, f32)", { skip }, async () => {
  for (const family of FAMILIES) {
    const expected = oracleJson<Expected>("families", family, "expect.json");
    const tensors = oracleTensors("families", family, "expect.safetensors");
    const backend = gpu("f32");
    using model = await loadModel({ path: oraclePath("families", family, "model"), backend, fullFinetuning: true });
    const optimizer = new Optimizer(backend, asTrainable(model).trainables, OPTIMIZER);
    const runner = new StepRunner({ model, optimizer, policy: { kind: "keep" }, maxPositions: 32 });
    const scale = 1 / expected.base.target_tokens;
    const { loss } = await runner.train(oracleBatch(expected.batch), scale, new Uint32Array(2));
    assert.ok(Math.abs(loss / expected.base.loss - 1) <= 1e-5, `loss ${loss}, expected ${expected.base.loss}`);
    for (const trainable of optimizer.trainables) {
      const gradient = new Float32Array((await optimizer.gradient(trainable).read()).buffer);
      const error = relativeError(gradient, oracleFloats(tensors, `full_grad.${trainable.name}`));
      assert.ok(error <= 1e-4, `${family} ${trainable.name}: relative error ${error}`);
    }
    runner.dispose();
    optimizer.dispose();
  }
});

interface Trajectory {
  readonly base_model: string;
  readonly optimizer: { readonly weight_decay: number };
  readonly max_grad_norm: number;
  readonly steps: { loss: number; grad_norm: number; learning_rate: number; microbatches: OracleBatch[] }[];
}

for (const [dtype, tolerance] of [
  ["f32", 1e-4],
  ["bf16", 3e-2],
] as const) {
  for (const name of ["llama3_lora", "qwen2_lora", "gemma2_lora", "llama3_nf4_lora"]) {
    test(`${name}: 20 steps follow PyTorch's (CUDA, ${dtype})`, { skip }, async () => {
      const backend = gpu(dtype);
      backend.poison = false;
      const spec = oracleJson<Trajectory>("trajectories", name, "trajectory.json");
      const base = await loadModel({ path: oraclePath(spec.base_model), backend });
      using model = await PeftModel.fromPretrained(base, oraclePath("trajectories", name, "adapter_init"), {
        isTrainable: true,
      });
      const options = { ...OPTIMIZER, weightDecay: spec.optimizer.weight_decay };
      const optimizer = new Optimizer(backend, model.trainable(), options);
      const runner = new StepRunner({ model: base, optimizer, policy: { kind: "keep" }, maxPositions: 64 });
      for (const [i, step] of spec.steps.entries()) {
        const batches = step.microbatches.map(oracleBatch);
        const targets = batches.reduce((sum, { labels }) => sum + labels.filter((label) => label >= 0).length, 0);
        let loss = 0;
        for (const batch of batches) loss += (await runner.train(batch, 1 / targets, new Uint32Array(2))).loss;
        const norm = await optimizer.update(step.learning_rate, spec.max_grad_norm);
        assert.ok(Math.abs(loss / step.loss - 1) <= tolerance, `step ${i}: loss ${loss}, expected ${step.loss}`);
        const slack = dtype === "f32" ? 1e-3 : 0.1;
        assert.ok(Math.abs(norm / step.grad_norm - 1) <= slack, `step ${i}: norm ${norm}, expected ${step.grad_norm}`);
      }
      runner.dispose();
      optimizer.dispose();
    });
  }
}
