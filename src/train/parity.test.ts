import assert from "node:assert/strict";
import { test } from "node:test";
import { CpuBackend } from "../backends/cpu/backend.ts";
import type { Batch } from "../data/index.ts";
import { loadModel } from "../models/load/load.ts";
import { Optimizer } from "../optim/optimizer.ts";
import { PeftModel } from "../peft/index.ts";
import { relativeError, runtimes } from "../testing/kernels.ts";
import { oraclePath as oracle, oracleFloats, oracleJson, oracleTensors } from "../testing/oracle.ts";
import { type OracleBatch, oracleBatch } from "../testing/oracle-batch.ts";
import { StepRunner } from "./step.ts";
import { asTrainable } from "./trainable.ts";
import { Trainer } from "./trainer.ts";

const FAMILIES = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2"];
const OPTIMIZER = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };

interface Expected {
  readonly batch: OracleBatch;
  readonly base: { readonly loss: number; readonly target_tokens: number };
  readonly lora: { readonly loss: number; readonly target_tokens: number };
}

const fastest = [...(await runtimes())].filter(([name]) => name.includes("2 thread"));
const chosen = new Map([fastest[0]!, ...fastest.filter(([name]) => name.includes("wasm")).slice(0, 1)]);

for (const [runtimeName, runtime] of chosen) {
  const backend = new CpuBackend(runtime);
  for (const family of FAMILIES) {
    const expected = oracleJson<Expected>("families", family, "expect.json");
    const tensors = oracleTensors("families", family, "expect.safetensors");

    test(`${family}: loss and every LoRA gradient equal transformers + peft (${runtimeName})`, async () => {
      const base = await loadModel({ path: oracle("families", family, "model"), backend });
      using model = await PeftModel.fromPretrained(base, oracle("families", family, "adapter"), { isTrainable: true });
      const optimizer = new Optimizer(backend, model.trainable(), OPTIMIZER);
      const runner = new StepRunner({ model: base, optimizer, policy: { kind: "keep" }, maxPositions: 32 });
      const { loss, metrics } = await runner.train(
        oracleBatch(expected.batch),
        1 / expected.lora.target_tokens,
        new Uint32Array(2),
      );
      assert.equal(metrics!.targets, expected.lora.target_tokens);
      assert.ok(Math.abs(loss / expected.lora.loss - 1) <= 1e-5, `loss ${loss}, expected ${expected.lora.loss}`);
      let compared = 0;
      for (const trainable of optimizer.trainables) {
        const gradient = new Float32Array((await optimizer.gradient(trainable).read()).buffer);
        const error = relativeError(gradient, oracleFloats(tensors, `grad.${trainable.name}`));
        assert.ok(error <= 1e-4, `${trainable.name}: relative error ${error}`);
        compared++;
      }
      assert.equal(compared, [...tensors.keys()].filter((name) => name.startsWith("grad.")).length);
      runner.dispose();
      optimizer.dispose();
    });

    test(`${family}: loss and every weight's gradient equal transformers (${runtimeName})`, async () => {
      using model = await loadModel({ path: oracle("families", family, "model"), backend, fullFinetuning: true });
      const optimizer = new Optimizer(backend, asTrainable(model).trainables, OPTIMIZER);
      const runner = new StepRunner({ model, optimizer, policy: { kind: "recompute" }, maxPositions: 32 });
      const { loss } = await runner.train(
        oracleBatch(expected.batch),
        1 / expected.base.target_tokens,
        new Uint32Array(2),
      );
      assert.ok(Math.abs(loss / expected.base.loss - 1) <= 1e-5, `loss ${loss}, expected ${expected.base.loss}`);
      for (const trainable of optimizer.trainables) {
        const gradient = new Float32Array((await optimizer.gradient(trainable).read()).buffer);
        const error = relativeError(gradient, oracleFloats(tensors, `full_grad.${trainable.name}`));
        assert.ok(error <= 1e-4, `${trainable.name}: relative error ${error}`);
      }
      runner.dispose();
      optimizer.dispose();
    });
  }
}

interface Trajectory {
  readonly base_model: string;
  readonly optimizer: { readonly lr: number; readonly eps: number; readonly weight_decay: number };
  readonly schedule: { readonly warmup_steps: number; readonly total_steps: number };
  readonly max_grad_norm: number;
  readonly steps: { loss: number; grad_norm: number; learning_rate: number; microbatches: OracleBatch[] }[];
}

for (const name of ["llama3_lora", "qwen2_lora", "gemma2_lora", "llama3_nf4_lora", "llama3_full"]) {
  test(`${name}: 20 steps follow PyTorch's`, async () => {
    const backend = new CpuBackend(fastest[0]![1]);
    const spec = oracleJson<Trajectory>("trajectories", name, "trajectory.json");
    const full = name.endsWith("_full");
    const base = await loadModel({ path: oracle(spec.base_model), backend, fullFinetuning: full });
    const model = full
      ? base
      : await PeftModel.fromPretrained(base, oracle("trajectories", name, "adapter_init"), { isTrainable: true });
    const batches = spec.steps.flatMap((step) => step.microbatches.map(oracleBatch));
    using trainer = new Trainer({
      model: asTrainable(model),
      train: { length: batches.length, batches: (): Batch[] => batches },
      maxPositions: 64,
      args: {
        maxSteps: spec.schedule.total_steps,
        perDeviceTrainBatchSize: 1,
        gradientAccumulationSteps: spec.steps[0]!.microbatches.length,
        learningRate: spec.optimizer.lr,
        adamEpsilon: spec.optimizer.eps,
        weightDecay: spec.optimizer.weight_decay,
        warmupSteps: spec.schedule.warmup_steps,
        maxGradNorm: spec.max_grad_norm,
        loggingSteps: 1,
        saveStrategy: "no",
        logLevel: "error",
      },
    });
    await trainer.train();
    const logged = trainer.state.logHistory.filter((row) => row.loss !== undefined);
    assert.equal(logged.length, spec.steps.length);
    spec.steps.forEach((step, i) => {
      const row = logged[i]!;
      assert.ok(Math.abs(row.loss! / step.loss - 1) <= 1e-5, `step ${i}: loss ${row.loss}, expected ${step.loss}`);
      assert.ok(
        Math.abs(row.grad_norm! / step.grad_norm - 1) <= 1e-5,
        `step ${i}: norm ${row.grad_norm}, expected ${step.grad_norm}`,
      );
      assert.ok(Math.abs(row.learning_rate! - step.learning_rate) <= 1e-12, `step ${i}: rate ${row.learning_rate}`);
    });
    const final = full
      ? oracleTensors("trajectories", name, "model_final.safetensors")
      : oracleTensors("trajectories", name, "adapter_final", "adapter_model.safetensors");
    for (const { name: key, tensor } of asTrainable(model).trainables) {
      const error = relativeError(new Float32Array((await tensor.read()).buffer), oracleFloats(final, key));
      // Adam divides by √v: rounding of the smallest gradients is what is left after 20 steps.
      assert.ok(error <= 1e-4, `${key}: relative error ${error}`);
    }
    model.dispose();
  });
}
