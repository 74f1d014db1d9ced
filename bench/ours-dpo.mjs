// DPO steps of this project, for bench/dpo.mjs: one JSON line.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

const { values: o } = parseArgs({
  options: {
    model: { type: "string" },
    tokenizer: { type: "string" },
    rows: { type: "string" },
    threads: { type: "string", default: "2" },
    steps: { type: "string", default: "4" },
    batch: { type: "string", default: "4" },
    device: { type: "string", default: "cpu" },
    "load-in-4bit": { type: "boolean", default: false },
    checkpointing: { type: "string", default: "unsloth" },
    t0: { type: "string" },
  },
});
const processStart = o.t0 ? Number(o.t0) : performance.timeOrigin / 1000;
const { Dataset, DPOTrainer, getPeftModel, loadModel, openDevice, Tokenizer } = await import("../dist/index.js");

const backend = await openDevice({ device: o.device, ...(o.device === "cpu" && { threads: Number(o.threads) }) });
const base = await loadModel({ path: o.model, backend, loadIn4bit: o["load-in-4bit"] });
const checkpointing = { false: false, true: true, unsloth: "unsloth" }[o.checkpointing];
const model = await getPeftModel(base, { r: 16, loraAlpha: 16, useGradientCheckpointing: checkpointing });
const tokenizer = await Tokenizer.fromFolder(o.tokenizer);
const seconds = [];
let last = 0;
let first = null;
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
};
const trainer = new DPOTrainer({
  model,
  tokenizer,
  trainDataset: await Dataset.fromJsonl(o.rows),
  args: {
    perDeviceTrainBatchSize: Number(o.batch),
    maxSteps: Number(o.steps),
    loggingSteps: 1,
    saveStrategy: "no",
    disableTqdm: true,
    logLevel: "error",
    maxLength: 4096,
    learningRate: 1e-5,
    trainSamplingStrategy: "sequential",
  },
  callbacks: [timer],
});
await trainer.train();
const history = trainer.state.logHistory.filter(({ loss }) => loss !== undefined);
const later = seconds.slice(1).sort((a, b) => a - b);
const resident = Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024;
console.log(
  JSON.stringify({
    secondsPerStep: later[later.length >> 1] ?? seconds[0],
    peakBytes: o.device === "cpu" ? resident : backend.memory().peak,
    firstStepSeconds: first,
    losses: history.map(({ loss }) => loss),
    logpsChosen: history[0]["logps/chosen"],
    backend: backend.description,
  }),
);
trainer.dispose();
backend.dispose();
