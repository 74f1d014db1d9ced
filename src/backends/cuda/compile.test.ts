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
import { capabilityOf, isPtx, type Target } from "./target.ts";

/**
 * Needs NVRTC and no GPU: every kernel compiles for the oldest cards that NVRTC still knows, and for new ones; as PTX for the
 * oldest, and for cards that NVRTC does not know yet.
 */

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

/** Launches of the op conformance suite, of training steps and of decoding, on a card that runs kernels of `target`. */
async function launchesOf(dtype: FloatDType, capability: number, target: Target): Promise<Launch[]> {
  const backend = new CollectingBackend(dtype, capability, Math.min(capability, capabilityOf(target)) >= 89);
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

/** Instructions by the compute capability they came with: NVRTC copies them into PTX unread, the driver would refuse them. */
const CAME_WITH = [
  [80, /cp\.async|mbarrier\.|m16n8k16|cvt\.rn\.bf16|mma\.[^;]*bf16|L2::128B/],
  [89, /e4m3/],
  [90, /griddepcontrol|try_wait/],
] as const;

/** What is wrong with a module's PTX. */
function ptxProblems(text: string, target: Target): string[] {
  const capability = capabilityOf(target);
  const problems = CAME_WITH.flatMap(([first, newer]) => (capability < first ? (newer.exec(text) ?? []) : []));
  if (!text.includes(`.target sm_${capability}\n`)) problems.push("another target");
  if (text.indexOf("\0") !== text.length - 1) problems.push("no NUL, or not only at its end");
  return problems;
}

for (const [dtype, capability, target] of [
  ["f32", 75, "sm_75"],
  ["f16", 75, "sm_75"],
  ["bf16", 80, "sm_80"],
  ["bf16", 90, "sm_90"],
  ["bf16", 120, "sm_120"],
  ["f32", 75, "compute_75"],
  ["f16", 75, "compute_75"],
  ["bf16", 89, "compute_86"],
  ["bf16", 120, "compute_90"],
  ["bf16", 121, "compute_120"],
] as const) {
  // The oldest cards are what nobody here has; the others take minutes to compile for, and are, by npm run test:gpu compile.
  const rest = dtype === "f16" || process.env.UNSLOTH_TEST_GPU === "1" ? false : "npm run test:gpu compile";
  const what = isPtx(target) ? `, as PTX for ${capabilityOf(target) / 10}` : "";
  const name = `kernels compile for compute capability ${capability / 10}${what}, activations in ${dtype}`;
  const known = nvrtc?.supported?.includes(capabilityOf(target)) ?? true;
  const unknown = known ? false : `NVRTC ${nvrtc!.version.join(".")} does not know ${target}`;
  test(name, { skip: skip || rest || unknown }, async (t) => {
    const launches = await launchesOf(dtype, capability, target);
    assert.ok(launches.length > 40, `${launches.length} kernels`);
    const modules = new Map(launches.map(({ file, defines }) => [JSON.stringify([file, defines]), { file, defines }]));
    const wrong: string[] = [];
    for (const [key, { file, defines }] of modules) {
      const code = compileCached(nvrtc!, moduleSource(file, defines), `${file}.cu`, target, []);
      const text = Buffer.from(code).toString("latin1");
      const kernels = launches.filter((launch) => JSON.stringify([launch.file, launch.defines]) === key);
      for (const { kernel } of kernels) if (!text.includes(kernel)) wrong.push(`${file}: no ${kernel}`);
      if (isPtx(target)) wrong.push(...ptxProblems(text, target).map((problem) => `${file}: ${problem}`));
    }
    assert.deepEqual(wrong, [], "kernels that are launched but not in their module, or that no card of its kind runs");
    t.diagnostic(`${modules.size} modules, ${launches.length} kernels`);
  });
}

test("what PTX may not have is found", { skip }, () => {
  for (const [file, defines, target] of [
    ["lora_grad", { T: "bf16", NR: 2, STAGES: 2 }, "compute_75"],
    ["fp8", { T: "bf16" }, "compute_86"],
  ] as const) {
    const code = compileCached(nvrtc!, moduleSource(file, defines), `${file}.cu`, target, []);
    const problems = ptxProblems(Buffer.from(code).toString("latin1"), target);
    assert.equal(problems.length, 1, problems.join());
  }
});
