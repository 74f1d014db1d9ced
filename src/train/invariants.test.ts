import assert from "node:assert/strict";
import { test } from "node:test";
import { CpuBackend } from "../backends/cpu/backend.ts";
import { collate, type TokenizedRow } from "../data/collate.ts";
import type { CheckpointPolicy } from "../graph/plan.ts";
import { Optimizer } from "../optim/optimizer.ts";
import { randomSource, relativeError, runtimes } from "../testing/kernels.ts";
import { allTrainables, tinyModel } from "../testing/tiny-model.ts";
import { StepRunner } from "./step.ts";

const OPTIMIZER = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };

function randomRow(length: number, seed: number, untrained = 0): TokenizedRow {
  const next = randomSource(seed);
  const inputIds = Int32Array.from({ length }, () => Math.floor(((next() + 1) / 2) * 61));
  return { inputIds, labels: inputIds.map((id, i) => (i < untrained ? -100 : id)) };
}

const ROWS = [9, 14, 5, 21, 3, 30, 11, 8].map((length, i) => randomRow(length, 7 + i, i % 3));

interface Setup {
  readonly policy?: CheckpointPolicy;
  readonly family?: string;
  readonly offload?: boolean;
}

/** Gradients and total loss of microbatches, normalised over all of them; each microbatch is a list of packed rows. */
async function gradients(backend: CpuBackend, microbatches: TokenizedRow[][][], setup: Setup = {}) {
  using model = tinyModel(backend, setup.family ?? "llama", { sliding_window: 6 });
  const optimizer = new Optimizer(backend, allTrainables(model), OPTIMIZER);
  const { policy = { kind: "keep" }, offload } = setup;
  const runner = new StepRunner({ model, optimizer, policy, offload, maxPositions: 64 });
  const batches = microbatches.map((rows) => collate(rows));
  const targets = batches.reduce((sum, batch) => sum + batch.numTargets, 0);
  let loss = 0;
  for (const batch of batches) loss += (await runner.train(batch, 1 / targets, Uint32Array.of(1, 2))).loss;
  const all = new Map<string, Float32Array>();
  for (const trainable of optimizer.trainables) {
    all.set(trainable.name, new Float32Array((await optimizer.gradient(trainable).read()).buffer));
  }
  const program = runner.program("train", batches[0]!.inputIds.length);
  runner.dispose();
  optimizer.dispose();
  return { loss, all, program };
}

function assertClose(a: Map<string, Float32Array>, b: Map<string, Float32Array>, tolerance: number): void {
  for (const [name, data] of a) {
    const error =
      tolerance === 0
        ? Number(Buffer.compare(bytes(data), bytes(b.get(name)!)) !== 0)
        : relativeError(data, b.get(name)!);
    assert.ok(error <= tolerance, `${name}: ${tolerance === 0 ? "not the same bits" : `relative error ${error}`}`);
  }
}
const bytes = (data: Float32Array): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

const all = await runtimes();
const [, runtime] = [...all].find(([name]) => name.includes("2 thread"))!;
const backend = new CpuBackend(runtime);
backend.poison = true;

test("batch 1 × accumulation 8 = batch 8 × accumulation 1", async () => {
  const one = await gradients(
    backend,
    ROWS.map((row) => [[row]]),
  );
  const eight = await gradients(backend, [ROWS.map((row) => [row])]);
  assert.ok(Math.abs(one.loss - eight.loss) <= 1e-6 * eight.loss);
  assertClose(one.all, eight.all, 1e-5);
});

test("packed = unpacked", async () => {
  const unpacked = await gradients(
    backend,
    ROWS.map((row) => [[row]]),
  );
  const packed = await gradients(backend, [[ROWS.slice(0, 3), ROWS.slice(3, 5)], [ROWS.slice(5)]]);
  assert.ok(Math.abs(packed.loss - unpacked.loss) <= 1e-6 * unpacked.loss);
  assertClose(packed.all, unpacked.all, 1e-5);
});

for (const family of ["llama", "gemma2", "qwen2", "qwen3", "mistral"]) {
  test(`what the planner keeps, recomputes or offloads does not change a bit of the gradients (${family})`, async () => {
    const rows = [ROWS.map((row) => [row])];
    const kept = await gradients(backend, rows, { family });
    const recomputed = await gradients(backend, rows, { family, policy: { kind: "recompute" } });
    const smallest = await gradients(backend, rows, { family, policy: { kind: "minimum" } });
    assert.ok(recomputed.program.arenaBytes < kept.program.arenaBytes);
    assert.ok(smallest.program.arenaBytes <= recomputed.program.arenaBytes);
    const middle = Math.round((kept.program.arenaBytes + smallest.program.arenaBytes) / 2);
    const policy: CheckpointPolicy = { kind: "budget", bytes: middle };
    const tight = await gradients(backend, rows, { family, policy });
    assert.ok(tight.program.arenaBytes <= middle, `${tight.program.arenaBytes} > ${middle}`);
    const choices = tight.program.checkpointing();
    assert.ok(choices.kept.count > 0 && choices.recomputed.count > 0, JSON.stringify(choices));
    const offloaded = await gradients(backend, rows, { family, policy, offload: true });
    assert.ok(offloaded.program.arenaBytes <= middle);
    for (const other of [recomputed, smallest, tight, offloaded]) {
      assert.equal(other.loss, kept.loss);
      assertClose(other.all, kept.all, 0);
    }
  });
}

test("1 thread = 2 threads, bit for bit, on every instruction set", async () => {
  const rows = [ROWS.map((row) => [row])];
  const names = [...all.keys()].filter((name) => name.includes("1 thread"));
  for (const name of names) {
    const one = await gradients(new CpuBackend(all.get(name)!), rows, { family: "gemma2" });
    const two = await gradients(new CpuBackend(all.get(name.replace("1 thread", "2 thread"))!), rows, {
      family: "gemma2",
    });
    assert.equal(one.loss, two.loss, name);
    assertClose(one.all, two.all, 0);
  }
});

test("the peak is known beforehand: what a step allocates is what was planned", async () => {
  using model = tinyModel(backend);
  const before = backend.memory();
  const optimizer = new Optimizer(backend, allTrainables(model), OPTIMIZER);
  const runner = new StepRunner({ model, optimizer, policy: { kind: "keep" }, maxPositions: 64 });
  const batch = collate([[ROWS[0]!]]);
  const planned = runner.program("train", batch.inputIds.length).arenaBytes;
  await runner.train(batch, 1, Uint32Array.of(0, 0));
  await optimizer.update(1e-3, 1);
  const warm = backend.memory();
  for (let i = 0; i < 3; i++) {
    await runner.train(batch, 1, Uint32Array.of(0, i));
    await optimizer.update(1e-3, 1);
  }
  const after = backend.memory();
  assert.equal(after.allocated, warm.allocated, "a step allocates nothing");
  assert.equal(after.peak, warm.peak);
  assert.ok(warm.arena >= planned && warm.arena === Math.max(before.arena, planned));
  runner.dispose();
  optimizer.dispose();
});
