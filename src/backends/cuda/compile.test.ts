import assert from "node:assert/strict";
import { test } from "node:test";
import { collate } from "../../data/index.ts";
import { DecodingSession } from "../../generate/session.ts";
import type { FloatDType } from "../../graph/types.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import { checkOpCase, OP_CASES } from "../../testing/op-cases.ts";
import { allTrainables, tinyModel } from "../../testing/tiny-model.ts";
import { StepRunner } from "../../train/step.ts";
import { CollectingBackend, NotRun } from "./collect.test.support.ts";
import type { Launch } from "./device.ts";
import { moduleSource } from "./kernels.ts";
import { compileCached, Nvrtc } from "./nvrtc.ts";

/** Needs NVRTC and no GPU: every kernel compiles for the oldest cards that NVRTC still knows, and for new ones. */

let nvrtc: Nvrtc | null = null;
let skip: string | false = false;
try {
  nvrtc = new Nvrtc();
} catch {
  skip = "no NVRTC";
}

/** Everything of a call that fails only because nothing is run. */
async function collected(call: Promise<unknown>): Promise<void> {
  try {
    await call;
  } catch (error) {
    if (!(error instanceof NotRun)) throw error;
  }
}

/** Launches of the op conformance suite, of training steps and of decoding. */
async function launchesOf(dtype: FloatDType, capability: number): Promise<Launch[]> {
  const backend = new CollectingBackend(dtype, capability, capability >= 89);
  for (const spec of Object.values(OP_CASES)) await collected(checkOpCase(backend, spec, dtype));
  for (const family of ["llama", "gemma2"]) {
    const model = tinyModel(backend, family, { head_dim: 64, hidden_size: 32, intermediate_size: 64 });
    for (const storage of ["nf4", "int8"] as const) {
      const name = `model.layers.0.mlp.${storage === "nf4" ? "up" : "down"}_proj.weight`;
      const { shape } = model.parameter(name);
      model.parameters.set(name, backend.createTensor(name, storage, shape, { role: "weight", doubleQuant: true }));
    }
    const trainables = allTrainables(model).filter(({ tensor }) => tensor.dtype === "f32");
    for (const eightBit of [false, true]) {
      const adam = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit };
      const optimizer = new Optimizer(backend, trainables, adam);
      const runner = new StepRunner({ model, optimizer, policy: { kind: "keep" }, maxPositions: 1024 });
      // Kernels differ by how many rows there are.
      for (const length of [9, 1024]) {
        const row = { inputIds: new Int32Array(length), labels: new Int32Array(length) };
        await collected(runner.train(collate([[row]]), 1, new Uint32Array(2)));
      }
      await collected(optimizer.update(1, 1));
    }
    const session = new DecodingSession(model, 1, 16);
    await collected(session.prefill([[1, 2, 3]]));
    await collected(session.decode([4]));
  }
  return [...backend.launches.values()];
}

for (const [dtype, capability] of [
  ["f32", 75],
  ["f16", 75],
  ["bf16", 80],
  ["bf16", 90],
  ["bf16", 120],
] as const) {
  // The oldest cards are what nobody here has; the others take minutes to compile for, and are, by npm run test:gpu compile.
  const rest = dtype === "f16" || process.env.UNSLOTH_TEST_GPU === "1" ? false : "npm run test:gpu compile";
  const name = `kernels compile for compute capability ${capability / 10}, activations in ${dtype}`;
  // Blackwell's came with NVRTC 12.8.
  const [major, minor] = nvrtc?.version ?? [0, 0];
  const older = capability > 90 && 100 * major + minor < 1208 ? `NVRTC ${major}.${minor} is older` : false;
  test(name, { skip: skip || rest || older }, async (t) => {
    const launches = await launchesOf(dtype, capability);
    assert.ok(launches.length > 40, `${launches.length} kernels`);
    const modules = new Map(launches.map(({ file, defines }) => [JSON.stringify([file, defines]), { file, defines }]));
    const missing: string[] = [];
    for (const [key, { file, defines }] of modules) {
      const code = compileCached(nvrtc!, moduleSource(file, defines), `${file}.cu`, capability, []);
      const text = Buffer.from(code).toString("latin1");
      const kernels = launches.filter((launch) => JSON.stringify([launch.file, launch.defines]) === key);
      for (const { kernel } of kernels) if (!text.includes(kernel)) missing.push(`${file}: ${kernel}`);
    }
    assert.deepEqual(missing, [], "kernels that are launched but not in their module");
    t.diagnostic(`${modules.size} modules, ${launches.length} kernels`);
  });
}
