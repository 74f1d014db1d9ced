import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { CollectingBackend, NotRun } from "../backends/cuda/collect.test.support.ts";
import type { CudaStatus } from "../backends/cuda/index.ts";
import { planOptions } from "../cli/plan.ts";
import type { TrainSettings } from "../cli/settings/train-settings.ts";
import { collate } from "../data/index.ts";
import type { Program } from "../graph/program.ts";
import { createRandomModel } from "../models/load/random.ts";
import { weightOptions } from "../models/load/weight-options.ts";
import { Optimizer } from "../optim/optimizer.ts";
import { getPeftModel } from "../peft/index.ts";
import { tinyConfig } from "../testing/tiny-model.ts";
import { StepRunner } from "../train/step.ts";
import { asTrainable } from "../train/trainable.ts";
import { planModel, planTraining } from "./plan-training.ts";
import { openSketchDevice } from "./sketch-device.ts";
import { sketchModel } from "./sketch-model.ts";

/** Rows from which products are in 8 bits. */
const LENGTH = 1024;
const CONFIG = tinyConfig("llama", {
  hidden_size: 256,
  intermediate_size: 512,
  head_dim: 32,
  num_hidden_layers: 4,
  max_position_embeddings: LENGTH,
  torch_dtype: "float32",
});
const folder = mkdtempSync(join(tmpdir(), "unsloth-plan-fp8-"));
after(() => rmSync(folder, { recursive: true }));
const configFile = join(folder, "config.json");
writeFileSync(configFile, JSON.stringify(CONFIG));

const card = {
  id: 0,
  index: 0,
  name: "X",
  bytes: 2 ** 34,
  computeCapability: 90,
  multiprocessors: 132,
  sharedBytes: 227 * 1024,
  l2Bytes: 2 ** 22,
};
const statusOf = (isThere: boolean) => (): CudaStatus => ({
  available: isThere,
  libraries: [{ name: "CUDA driver", path: "/lib/libcuda.so.1", remedy: "install it", optional: false }],
  driverVersion: null,
  devices: isThere ? [card] : [],
  problems: isThere ? [] : ["CUDA driver was not found"],
});
const LORA = { r: 8, targetModules: ["q_proj", "k_proj", "v_proj", "down_proj"] };

type Storage = { loadIn4bit?: boolean; loadIn8bit?: boolean; loadIn16bit?: boolean };

/** A step as `unsloth plan` and `--dry-run` plan it. */
async function planned(fp8: boolean, storage: Storage): Promise<Program> {
  const { backend, memory } = await openSketchDevice({ device: "cuda", fp8 }, undefined, statusOf(true));
  const lm = sketchModel(configFile, backend, { dtype: "bfloat16", ...weightOptions("test", storage) });
  const plan = planModel(await getPeftModel(lm, LORA), { maxSeqLength: LENGTH, memory });
  return plan.modes.find(({ mode }) => mode === "recompute")!.program!;
}

/** A step of a model as it is loaded, and the most scratch that what it launches asks for, by step. */
async function trained(fp8: boolean, storage: Storage): Promise<{ program: Program; scratch: number[]; fp8: number }> {
  const backend = new CollectingBackend("bf16", card.computeCapability, fp8, card);
  const { dtype, ...weights } = { dtype: "bfloat16" as const, ...weightOptions("test", storage) };
  const lm = await createRandomModel({ config: CONFIG, backend, dtype, ...weights });
  const { trainables } = asTrainable(await getPeftModel(lm, LORA));
  const adam = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
  const optimizer = new Optimizer(backend, trainables, adam);
  const runner = new StepRunner({ model: lm, optimizer, policy: { kind: "recompute" }, maxPositions: LENGTH });
  const ids = new Int32Array(LENGTH);
  await assert.rejects(runner.train(collate([[{ inputIds: ids, labels: ids }]]), 1, new Uint32Array(2)), NotRun);
  const program = runner.program("train", LENGTH);
  backend.scratch.clear();
  backend.products.clear();
  backend.compile(program);
  const inFp8 = [...backend.products.values()].filter(({ input }) => input === "e4m3").length;
  return { program, scratch: program.steps.map((node) => backend.scratch.get(node) ?? 0), fp8: inFp8 };
}

const workspaces = ({ steps, liveness }: Program): number[] =>
  steps.map((node) => liveness.workspaces.get(node)?.bytes ?? 0);

for (const storage of [{ loadIn4bit: true }, { loadIn8bit: true }, { loadIn16bit: true }]) {
  test(`a planned step in fp8 has the workspaces that its launches ask for (${Object.keys(storage)})`, async () => {
    const [plan, real, plain] = [
      await planned(true, storage),
      await trained(true, storage),
      await planned(false, storage),
    ];
    assert.ok(real.fp8 > 3, `${real.fp8} kinds of products in 8 bits`);
    assert.deepEqual(workspaces(plan), real.scratch);
    assert.equal(plan.arenaBytes, real.program.arenaBytes);
    assert.equal((await trained(false, storage)).program.arenaBytes, plain.arenaBytes);
    // The first and the last of four layers are multiplied as without.
    const differing = workspaces(plan).filter((bytes, i) => bytes !== workspaces(plain)[i]).length;
    assert.ok(differing > 6 && differing < plan.steps.length / 2, `${differing} of ${plan.steps.length} steps differ`);
  });
}

test("fp8 is planned for a card that has it, and for no CPU", async () => {
  const memory = 80 * 2 ** 30;
  const { backend, warnings } = await openSketchDevice({ device: "cuda", fp8: true }, memory, statusOf(false));
  assert.ok(backend.fp8);
  assert.match(warnings[0]!, /capability 8\.9 or newer/);
  for (const device of ["cpu", "auto"] as const) {
    await assert.rejects(
      openSketchDevice({ device, fp8: true }, memory, statusOf(false)),
      /fp8 needs a GPU: leave it out, or plan with device: "cuda" and the memory of one/,
    );
  }
  await assert.rejects(planTraining({ modelName: configFile, device: "cpu", fp8: true }), /fp8 needs a GPU/);
});

test("`unsloth plan` plans with the setting", () => {
  const model = { model: configFile, device: "cuda", fp8: true };
  const settings = { model, lora: {}, sft: {}, args: {} } as unknown as TrainSettings;
  assert.equal(planOptions(settings).fp8, true);
});
