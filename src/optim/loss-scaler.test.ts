import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { CpuBackend } from "../backends/cpu/backend.ts";
import {
  inFolder,
  openBackend,
  quietTrainer,
  randomRows,
  source,
  tinyPeft,
  trainedBytes,
} from "../train/tiny-training.test.support.ts";
import type { Trainer } from "../train/trainer.ts";
import { LossScaler } from "./loss-scaler.ts";

test("not finite halves, 2,000 good steps in a row double", () => {
  const scaler = new LossScaler();
  assert.equal(scaler.scale, 65536);
  scaler.update(false);
  assert.equal(scaler.scale, 32768);
  for (let i = 0; i < 1999; i++) scaler.update(true);
  assert.deepEqual(scaler.state(), { scale: 32768, growth_tracker: 1999 });
  scaler.update(true);
  assert.deepEqual(scaler.state(), { scale: 65536, growth_tracker: 0 });
  for (let i = 0; i < 1999; i++) scaler.update(true);
  scaler.update(false);
  for (let i = 0; i < 1999; i++) scaler.update(true);
  assert.equal(scaler.scale, 32768, "a bad step begins the count again");
  assert.throws(() => scaler.restore({ scale: 0, growth_tracker: 0 }, "f.json"), /f\.json.*loss_scaler\.scale/);
  assert.throws(() => scaler.restore({ scale: 1, growth_tracker: -1 }, "f.json"), { name: "FormatError" });
});

let backend: CpuBackend;
before(async () => {
  backend = await openBackend();
});
after(() => backend.dispose());

/** A trainer on the CPU that scales as one on float16 would. */
async function scaled(scale: number | null, args: Record<string, unknown> = {}): Promise<Trainer> {
  const trainer = quietTrainer(await tinyPeft(backend), {
    train: source(randomRows(12)),
    args: { perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 2, maxSteps: 6, maxGradNorm: 0.5, ...args },
  });
  return scale === null ? trainer : Object.assign(trainer, withScaler(trainer, new LossScaler(scale)));
}

function withScaler(trainer: Trainer, lossScaler: LossScaler): object {
  Object.assign(trainer.optimizer, { lossScaler });
  return {};
}

const numbers = (bytes: Buffer): Float32Array => new Float32Array(new Uint8Array(bytes).buffer);

test("a scaled training is the plain one: losses, norms, weights, with clipping and without", async () => {
  for (const maxGradNorm of [0.5, 0]) {
    using plain = await scaled(null, { maxGradNorm });
    using other = await scaled(65536, { maxGradNorm });
    await plain.train();
    await other.train();
    const [rows, scaledRows] = [plain, other].map(({ state }) => state.logHistory.filter((row) => "loss" in row));
    assert.equal(rows!.length, 6);
    rows!.forEach((row, i) => {
      for (const key of ["loss", "grad_norm"]) {
        const [want, got] = [Number(row[key]), Number(scaledRows![i]![key])];
        assert.ok(Math.abs(got / want - 1) < 1e-5, `step ${i} ${key}: ${got}, ${want}`);
      }
    });
    const weights = await trainedBytes(plain);
    for (const [name, bytes] of await trainedBytes(other)) {
      const want = numbers(weights.get(name)!);
      numbers(bytes).forEach((x, i) => assert.ok(Math.abs(x - want[i]!) < 1e-5, `${name}[${i}]`));
    }
    assert.deepEqual(other.optimizer.lossScaler!.state(), { scale: 65536, growth_tracker: 6 });
  }
});

test("gradients that overflow: nothing changes, the step is not one of Adam's, no warning, and training recovers", async () => {
  const warnings: string[] = [];
  const listen = (warning: Error) => warnings.push(warning.message);
  process.on("warning", listen);
  for (const maxGradNorm of [0.5, 0]) {
    using trainer = await scaled(2 ** 126, { maxGradNorm, maxSteps: 1 });
    const before = await trainedBytes(trainer);
    await trainer.train();
    assert.deepEqual(await trainedBytes(trainer), before);
    assert.equal(trainer.optimizer.step, 0);
    assert.equal(trainer.optimizer.lossScaler!.scale, 2 ** 125);
    trainer.optimizer.lossScaler!.scale = 1024;
    await trainer.train();
    assert.equal(trainer.optimizer.step, 1);
    assert.notDeepEqual(await trainedBytes(trainer), before, "the bad gradients are gone");
  }
  await new Promise((resolve) => setImmediate(resolve));
  process.off("warning", listen);
  assert.deepEqual(warnings, []);
});

test("the scale is part of a checkpoint", async () => {
  await inFolder(async (outputDir) => {
    const args = { outputDir, saveStrategy: "steps", saveSteps: 3 };
    using whole = await scaled(4096, args);
    await whole.train();
    const file = join(outputDir, "checkpoint-3", "training_state.json");
    const saved = JSON.parse(readFileSync(file, "utf8")) as { loss_scaler: unknown };
    assert.deepEqual(saved.loss_scaler, { scale: 4096, growth_tracker: 3 });
    using resumed = await scaled(65536, args);
    await resumed.train({ resumeFromCheckpoint: join(outputDir, "checkpoint-3") });
    assert.deepEqual(await trainedBytes(resumed), await trainedBytes(whole));
    assert.deepEqual(resumed.optimizer.lossScaler!.state(), { scale: 4096, growth_tracker: 6 });
    writeFileSync(file, JSON.stringify({ ...saved, loss_scaler: { scale: -1, growth_tracker: 0 } }));
    using broken = await scaled(65536, args);
    const again = broken.train({ resumeFromCheckpoint: join(outputDir, "checkpoint-3") });
    await assert.rejects(again, /training_state\.json.*loss_scaler\.scale/s);
  });
});

test("fp16 and bf16 on a GPU must be what the model was loaded for", async () => {
  const trainerOn = async (name: string, computeDtype: string, args: Record<string, unknown>) => {
    const model = await tinyPeft(backend);
    // Only its name and type matter: nothing is run.
    Object.defineProperty(model.model, "backend", {
      value: Object.create(backend, { name: { value: name }, computeDtype: { value: computeDtype } }),
    });
    quietTrainer(model, { train: source(randomRows(2)), args }).dispose();
  };
  await assert.rejects(
    trainerOn("cuda", "bf16", { fp16: true }),
    /fp16 is true but the model computes in bf16.*"float16"/,
  );
  await assert.rejects(trainerOn("cuda", "f16", { bf16: true }), { name: "OptionError" });
  await trainerOn("cuda", "bf16", { bf16: true });
  await trainerOn("cpu", "f32", { fp16: true });
});
