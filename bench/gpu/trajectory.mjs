// Fifty LoRA steps of the embedded model on the CPU in float32 and on the GPU in every type, over the same batches from
// the same adapter; what a rival needs to repeat them is written into --folder (adapter/ and batches.json), and with
// --prepare nothing else is done. --model trains another model folder, on the GPU alone.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { load, result, seconds, writeOut } from "./lib.mjs";

const { CudaBackend } = await load("backends/cuda/index.js");
const { openCpuBackend } = await load("backends/cpu/backend.js");
const { loadModel } = await load("models/load/load.js");
const { getPeftModel, PeftModel } = await load("peft/index.js");
const { Optimizer } = await load("optim/optimizer.js");
const { StepRunner } = await load("train/step.js");
const { collate, tokenizeRows } = await load("data/index.js");
const { Tokenizer } = await load("tokenizer/index.js");
const { generateProblems } = await load("quickstart/problems.js");
const { EMBEDDED_MODEL } = await load("quickstart/quickstart.js");

const { values: flags } = parseArgs({
  options: {
    folder: { type: "string" },
    model: { type: "string" },
    prepare: { type: "boolean", default: false },
    steps: { type: "string", default: "50" },
  },
});
const [STEPS, BATCH, LENGTH] = [Number(flags.steps), 8, 256];
const LEARNING_RATE = 2e-3;
if (flags.prepare && !flags.folder) throw new Error("--prepare needs --folder");
const path = flags.model ?? EMBEDDED_MODEL;
const tokenizer = await Tokenizer.fromFolder(path);
const { train } = generateProblems({ train: STEPS * BATCH, test: 1, seed: 3407 });
const located = train.map(({ row }, i) => ({ row, where: `row ${i}` }));
const { rows } = tokenizeRows(located, tokenizer, { maxSeqLength: LENGTH, assistantOnlyLoss: true });
const batches = Array.from({ length: STEPS }, (_, step) => rows.slice(step * BATCH, (step + 1) * BATCH));

const fresh = (base) => getPeftModel(base, { r: 16, loraAlpha: 32, randomState: 3407 });

async function losses(backend, options, adapter) {
  const base = await loadModel({ path, backend, ...options });
  const model = adapter ? await PeftModel.fromPretrained(base, adapter, { isTrainable: true }) : await fresh(base);
  const adam = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
  const optimizer = new Optimizer(backend, model.trainable(), adam);
  const runner = new StepRunner({ model: base, optimizer, policy: { kind: "keep" }, maxPositions: LENGTH });
  const out = [];
  for (const batch of batches) {
    const data = collate(batch.map((row) => [row]));
    const { loss } = await runner.train(data, 1 / data.numTargets, new Uint32Array(2));
    await optimizer.update(LEARNING_RATE, 1);
    out.push(loss);
  }
  runner.dispose();
  optimizer.dispose();
  return out;
}

if (flags.folder) {
  mkdirSync(flags.folder, { recursive: true });
  const plain = batches.map((batch) =>
    batch.map(({ inputIds, labels }) => ({ ids: [...inputIds], labels: [...labels] })),
  );
  const settings = { model: path, learning_rate: LEARNING_RATE, batches: plain };
  writeFileSync(join(flags.folder, "batches.json"), JSON.stringify(settings));
  const backend = await openCpuBackend({});
  const model = await fresh(await loadModel({ path, backend }));
  await model.savePretrained(join(flags.folder, "adapter"));
  backend.dispose();
}
if (flags.prepare) process.exit();
const adapter = flags.folder ? join(flags.folder, "adapter") : undefined;
const all = {};
if (!flags.model) {
  const cpu = await openCpuBackend({});
  all["CPU f32"] = await losses(cpu, { dtype: "float32" }, adapter);
  all["CPU f32, NF4 weights"] = await losses(cpu, { dtype: "float32", loadIn4bit: true }, adapter);
  cpu.dispose();
  console.log(`${seconds()} s: CPU done`);
}
const dtypes = { f32: "float32", bf16: "bfloat16", f16: "float16" };
for (const [label, computeDtype, options] of [
  ["GPU f32", "f32", {}],
  ["GPU bf16", "bf16", {}],
  ["GPU f16, scaled loss", "f16", {}],
  ["GPU bf16, NF4 weights", "bf16", { loadIn4bit: true }],
  ["GPU bf16, 8-bit weights", "bf16", { loadIn8bit: true }],
  ["GPU bf16, fp8 products", "bf16", { fp8: true }],
]) {
  const { fp8 = false, ...load } = options;
  let backend = null;
  try {
    backend = new CudaBackend({ computeDtype, fp8 });
    all[label] = await losses(backend, { dtype: dtypes[computeDtype], ...load }, adapter);
  } catch (error) {
    result("trajectory", { who: label, error: error.message });
  }
  backend?.dispose();
  console.log(`${seconds()} s: ${label} done`);
}

const lastMean = (list) => list.slice(-10).reduce((sum, x) => sum + x, 0) / 10;
for (const [who, list] of Object.entries(all)) {
  const onCpu = who.includes("NF4") ? "CPU f32, NF4 weights" : "CPU f32";
  const against = [onCpu, "GPU f32", who].find((name) => name in all);
  const largest = Math.max(...list.map((x, i) => Math.abs(x - all[against][i])));
  const numbers = { first: list[0], lastTenMean: lastMean(list), largestDifference: largest, losses: list };
  result("trajectory", { who, against, ...numbers });
}
writeOut("trajectories.json", JSON.stringify(all));
