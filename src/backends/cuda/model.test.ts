import assert from "node:assert/strict";
import { test } from "node:test";
import { bf16ToF32, f32ToBf16 } from "../../formats/float16.ts";
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
import { gpu, skip, skipOf } from "./gpu.test.support.ts";

const FAMILIES = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2"];
const OPTIMIZER = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
/** Largest relative error of logits computed in two ways. */
const LOGITS_TOLERANCE = { f32: 1e-4, bf16: 5e-2, f16: 1e-2 };

interface Expected {
  readonly batch: OracleBatch;
  readonly lora: { readonly loss: number; readonly target_tokens: number };
  readonly base: { readonly loss: number; readonly target_tokens: number };
}

const roundToBf16 = (floats: Float32Array): Float32Array => {
  const halves = new Uint16Array(floats.length);
  f32ToBf16(floats, halves);
  const rounded = new Float32Array(floats.length);
  bf16ToF32(halves, rounded);
  return rounded;
};

/** Loss and LoRA gradients of a family's fixture batch; `rounded`: all weights rounded to bf16 first. */
async function familyGradients(
  family: string,
  computeDtype: FloatDType,
  rounded: boolean,
): Promise<{ expected: Expected; loss: number; targets: number; gradients: Map<string, Float32Array> }> {
  const expected = oracleJson<Expected>("families", family, "expect.json");
  const backend = gpu(computeDtype);
  backend.poison = true;
  const dtype = rounded ? "bfloat16" : null;
  const base = await loadModel({ path: oraclePath("families", family, "model"), backend, dtype });
  using model = await PeftModel.fromPretrained(base, oraclePath("families", family, "adapter"), { isTrainable: true });
  for (const { tensor } of rounded ? model.trainable() : []) {
    const values = roundToBf16(new Float32Array((await tensor.read()).buffer));
    tensor.write(new Uint8Array(values.buffer));
  }
  const optimizer = new Optimizer(backend, model.trainable(), OPTIMIZER);
  const runner = new StepRunner({ model: base, optimizer, policy: { kind: "recompute" }, maxPositions: 32 });
  const scale = 1 / expected.lora.target_tokens;
  const batch = oracleBatch(expected.batch);
  let result = await runner.train(batch, scale, new Uint32Array(2));
  const gradients = new Map<string, Float32Array>();
  const read = async (): Promise<void> => {
    for (const trainable of optimizer.trainables) {
      const scaled = new Float32Array((await optimizer.gradient(trainable).read()).buffer);
      gradients.set(
        trainable.name,
        scaled.map((x) => x / (optimizer.lossScaler?.scale ?? 1)),
      );
    }
  };
  await read();
  // As a training does: gradients that a scale is too large for are left out and lower it.
  while (optimizer.lossScaler && [...gradients.values()].some((values) => !values.every(Number.isFinite))) {
    await optimizer.update(0, 0);
    assert.ok(optimizer.lossScaler.scale >= 1, "no scale is small enough");
    result = await runner.train(batch, scale, new Uint32Array(2));
    await read();
  }
  runner.dispose();
  optimizer.dispose();
  const { loss, metrics } = result;
  return { expected, loss, targets: metrics?.targets ?? Number.NaN, gradients };
}

/** ‖got − want‖ / ‖want‖ over all tensors together. */
function distance(got: ReadonlyMap<string, Float32Array>, want: (name: string) => Float32Array): number {
  let [difference, total] = [0, 0];
  for (const [name, gradient] of got) {
    want(name).forEach((x, i) => {
      difference += (gradient[i]! - x) ** 2;
      total += x ** 2;
    });
  }
  return Math.sqrt(difference / total);
}

for (const family of FAMILIES) {
  const fixture = () => oracleTensors("families", family, "expect.safetensors");

  test(`${family}: loss and every LoRA gradient equal transformers + peft (CUDA, f32)`, { skip }, async () => {
    const { expected, loss, targets, gradients } = await familyGradients(family, "f32", false);
    assert.equal(targets, expected.lora.target_tokens);
    assert.ok(Math.abs(loss / expected.lora.loss - 1) <= 1e-5, `${loss}, expected ${expected.lora.loss}`);
    const tensors = fixture();
    for (const [name, gradient] of gradients) {
      const error = relativeError(gradient, oracleFloats(tensors, `grad.${name}`));
      assert.ok(error <= 1e-4, `${name}: relative error ${error}`);
    }
  });

  // f16 has three bits more of a number than bf16; its gradients are scaled on the way.
  for (const [dtype, share, slack] of [
    ["bf16", 3, 1e-2],
    ["f16", 1, 2e-3],
  ] as const) {
    test(`${family}: ${dtype} is off by no more than bf16 weights alone explain (CUDA)`, {
      skip: skipOf(dtype),
    }, async () => {
      const tensors = fixture();
      const want = (name: string) => oracleFloats(tensors, `grad.${name}`);
      // These random models amplify rounding: f32 arithmetic over rounded weights alone moves the gradients by 3% to 22%.
      const alone = await familyGradients(family, "f32", true);
      const { expected, loss, gradients } = await familyGradients(family, dtype, false);
      const [noise, error] = [distance(alone.gradients, want), distance(gradients, want)];
      assert.ok(error <= share * noise, `gradients off by ${error}; rounded weights alone by ${noise}`);
      assert.ok(Math.abs(loss / expected.lora.loss - 1) <= slack, `${loss}, expected ${expected.lora.loss}`);
    });
  }
}

for (const dtype of ["f32", "bf16", "f16"] as const) {
  const tolerance = LOGITS_TOLERANCE[dtype];
  test(`logits of packed sequences and of decoding with a cache agree (CUDA, ${dtype})`, {
    skip: skipOf(dtype),
  }, async () => {
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
        for (const error of errors) assert.ok(error <= tolerance, `${family}: relative error ${error}`);
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
  readonly optimizer: { readonly eps: number; readonly weight_decay: number };
  readonly max_grad_norm: number;
  readonly steps: { loss: number; grad_norm: number; learning_rate: number; microbatches: OracleBatch[] }[];
}

for (const [dtype, tolerance] of [
  ["f32", 1e-4],
  ["bf16", 3e-2],
  ["f16", 3e-3],
] as const) {
  for (const name of ["llama3_lora", "qwen2_lora", "gemma2_lora", "llama3_nf4_lora"]) {
    test(`${name}: 20 steps follow PyTorch's (CUDA, ${dtype})`, { skip: skipOf(dtype) }, async () => {
      const backend = gpu(dtype);
      backend.poison = false;
      const spec = oracleJson<Trajectory>("trajectories", name, "trajectory.json");
      const base = await loadModel({ path: oraclePath(spec.base_model), backend });
      using model = await PeftModel.fromPretrained(base, oraclePath("trajectories", name, "adapter_init"), {
        isTrainable: true,
      });
      const options = { ...OPTIMIZER, epsilon: spec.optimizer.eps, weightDecay: spec.optimizer.weight_decay };
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
      const scaler = optimizer.lossScaler;
      assert.equal(scaler?.scale, dtype === "f16" ? 65536 : undefined, "no step was left out");
      runner.dispose();
      optimizer.dispose();
    });
  }
}
