// LoRA steps of this project on the CPU: one JSON line. Run by bench/cpu.mjs, or alone:
// node bench/ours-cpu.mjs --model FOLDER [--threads 2] [--steps 6] [--batch 4] [--length 512] [--load-in-4bit] [--checkpointing false|true|unsloth] [--t0 EPOCH_SECONDS]
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

const { values: o } = parseArgs({
  options: {
    model: { type: "string" },
    threads: { type: "string", default: "2" },
    steps: { type: "string", default: "6" },
    batch: { type: "string", default: "4" },
    length: { type: "string", default: "512" },
    dtype: { type: "string" },
    "load-in-4bit": { type: "boolean", default: false },
    checkpointing: { type: "string", default: "unsloth" },
    prefer: { type: "string", default: "native" },
    t0: { type: "string" },
    profile: { type: "boolean", default: false },
  },
});
// process.hrtime and performance.timeOrigin are this process's start, which is what the figure counts from.
const processStart = o.t0 ? Number(o.t0) : performance.timeOrigin / 1000;

const { openCpuBackend, loadModel, getPeftModel, asTrainable, Trainer } = await import("../dist/index.js");
const { collate } = await import("../dist/data/index.js");

const [batch, length, steps] = [Number(o.batch), Number(o.length), Number(o.steps)];
const backend = await openCpuBackend({ threads: Number(o.threads), prefer: o.prefer });
const base = await loadModel({ path: o.model, backend, loadIn4bit: o["load-in-4bit"], dtype: o.dtype ?? null });
const checkpointing = { false: false, true: true, unsloth: "unsloth" }[o.checkpointing];
const model = await getPeftModel(base, { r: 16, loraAlpha: 16, useGradientCheckpointing: checkpointing });

let state = 12345;
const next = () => {
  state = (Math.imul(state, 1103515245) + 12345) >>> 0;
  return state >>> 8;
};
const rows = Array.from({ length: batch }, () => {
  const inputIds = Int32Array.from({ length }, () => next() % base.config.vocabSize);
  return [{ inputIds, labels: inputIds }];
});
const packed = collate(rows);
const source = {
  length: batch * steps,
  *batches() {
    for (let i = 0; i < steps; i++) yield packed;
  },
};

const seconds = [];
let last = performance.now();
let first = null;
const losses = [];
const timer = {
  onTrainBegin() {
    last = performance.now();
  },
  onStepEnd() {
    const now = performance.now();
    first ??= Date.now() / 1000 - processStart;
    seconds.push((now - last) / 1000);
    last = now;
  },
  onLog(_, row) {
    if (row.loss !== undefined) losses.push(row.loss);
  },
};
const trainer = new Trainer({
  model: asTrainable(model),
  train: source,
  args: {
    perDeviceTrainBatchSize: batch,
    maxSteps: steps,
    learningRate: 2e-4,
    loggingSteps: 1,
    saveStrategy: "no",
    disableTqdm: true,
  },
  callbacks: [timer],
  maxPositions: length,
});
const planned = trainer.runner.program("train", packed.inputIds.length);
await trainer.train();
const sorted = seconds.slice(1).sort((a, b) => a - b);
const median = sorted[sorted.length >> 1];
const peak = Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? Number.NaN) * 1024;
console.log(
  JSON.stringify({
    name: "unsloth (this project)",
    backend: backend.description,
    threads: Number(o.threads),
    tokensPerSecond: (batch * length) / median,
    peakBytes: peak,
    firstStepSeconds: first,
    stepSeconds: seconds,
    losses,
    plannedArenaBytes: planned.arenaBytes,
    weightBytes: base.parameterBytes,
  }),
);
if (o.profile) {
  const executable = backend.compile(planned);
  const timings = new Float64Array(planned.steps.length);
  const inputs = {
    ids: packed.inputIds,
    positions: packed.positions,
    seqStart: packed.seqStart,
    seqEnd: packed.seqEnd,
    labels: packed.labels,
    lossScale: Float32Array.of(1),
    seed: new Uint32Array(2),
  };
  await executable.execute(inputs, { timings });
  const byOp = new Map();
  planned.steps.forEach((node, i) => {
    const a = node.attrs;
    const key =
      node.op.name === "matmul"
        ? `matmul ${a.transA ? "T" : "N"}${a.transB ? "T" : "N"} ${node.outputs[0].shape}·${a.transA ? node.inputs[0].shape[0] : node.inputs[0].shape[1]}${node.inputs[4] ? "+r" : ""}`
        : node.op.name;
    const entry = byOp.get(key) ?? { ms: 0, calls: 0, flops: 0 };
    entry.ms += timings[i] / 1e6;
    entry.calls++;
    entry.flops += node.op.cost?.(node).flops ?? 0;
    byOp.set(key, entry);
  });
  for (const [key, { ms, calls, flops }] of [...byOp].sort((a, b) => b[1].ms - a[1].ms)) {
    console.error(
      `${ms.toFixed(1).padStart(8)} ms ${String(calls).padStart(5)} calls ${(flops / ms / 1e6).toFixed(1).padStart(7)} GFLOP/s  ${key}`,
    );
  }
}
backend.dispose();
