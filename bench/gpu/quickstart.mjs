// Exact answers of the embedded model after the quickstart's training on the GPU: QLoRA against LoRA on 16-bit weights,
// and fp8 products of those against bf16's. Products are in fp8 from 1,024 tokens a step, so that pair takes three
// packed rows of 512 (of two, half the steps would be too short). Prompts go through fp8 too, a token at a time never.
// One training's result moves by points with its seed: each way is trained with every seed (of the adapter and the order of
// the rows), all answer the same problems, and means are compared.
//   node bench/gpu/quickstart.mjs [--seeds 3407,1,2] [--problems 1000] [--ways 0,2] [--epochs 4] [--device cpu --threads 1]
// The quickstart itself stops after 1.5 epochs, where accuracy still rises steeply and NF4 is behind; ways are compared after
// four, where it hardly does.
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { load, result, seconds } from "./lib.mjs";

const { openDevice } = await load("api/device.js");
const { FastLanguageModel } = await load("api/fast-language-model.js");
const { Dataset } = await load("data/index.js");
const { SFTTrainer } = await load("train/index.js");
const { accuracy, answerProblems } = await load("quickstart/evaluate.js");
const { generateProblems } = await load("quickstart/problems.js");
const { EMBEDDED_MODEL } = await load("quickstart/quickstart.js");

const WAYS = [
  ["QLoRA (NF4)", { loadIn4bit: true }],
  ["LoRA, 8-bit weights", { loadIn8bit: true }],
  ["LoRA, 16-bit weights", { loadIn16bit: true }],
  ["LoRA, 16-bit weights, 3 rows a step", { loadIn16bit: true }, 3],
  ["LoRA, 16-bit weights, fp8 products, 3 rows a step", { loadIn16bit: true }, 3, true],
  ["QLoRA (NF4), 3 rows a step", { loadIn4bit: true }, 3],
  ["QLoRA (NF4), fp8 products, 3 rows a step", { loadIn4bit: true }, 3, true],
];
const { values: flags } = parseArgs({
  options: {
    seeds: { type: "string", default: "3407,1,2" },
    problems: { type: "string", default: "1000" },
    epochs: { type: "string", default: "4" },
    device: { type: "string", default: "cuda" },
    threads: { type: "string" },
    ways: { type: "string", default: [...WAYS.keys()].join() },
  },
});
const numbers = (text) => text.split(",").map(Number);
const seeds = numbers(flags.seeds);
const folder = mkdtempSync(join(tmpdir(), "bench-quickstart-"));
const { train, test } = generateProblems({ train: 2000, test: Number(flags.problems), seed: 3407 });
const file = join(folder, "train.jsonl");
writeFileSync(file, train.map(({ row }) => `${JSON.stringify(row)}\n`).join(""));

/** One training and its answers. */
async function run([who, options, rows = 2, fp8 = false], seed) {
  const from = performance.now();
  const backend = await openDevice({
    device: flags.device,
    fp8,
    ...(flags.threads && { threads: Number(flags.threads) }),
  });
  const load = { modelName: EMBEDDED_MODEL, maxSeqLength: 512, backend, ...options };
  const { model: base, tokenizer } = await FastLanguageModel.fromPretrained(load);
  const model = await FastLanguageModel.getPeftModel(base, { r: 16, loraAlpha: 64, randomState: seed });
  const trainer = new SFTTrainer({
    model,
    tokenizer,
    trainDataset: await Dataset.fromJsonl(file),
    packing: true,
    assistantOnlyLoss: true,
    args: {
      outputDir: folder,
      perDeviceTrainBatchSize: rows,
      numTrainEpochs: Number(flags.epochs),
      learningRate: 2e-3,
      lrSchedulerType: "cosine",
      warmupSteps: 5,
      optim: "adamw_8bit",
      saveStrategy: "no",
      seed,
      logLevel: "error",
    },
  });
  await trainer.train();
  const trained = performance.now();
  const samples = await answerProblems(base, tokenizer, test, () => undefined);
  const outcome = {
    accuracy: accuracy(samples),
    trainSeconds: (trained - from) / 1000,
    answerSeconds: (performance.now() - trained) / 1000,
  };
  console.log(`${seconds()} s: ${who}, seed ${seed}: ${(100 * outcome.accuracy).toFixed(1)}%`);
  trainer.dispose();
  backend.dispose();
  return outcome;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
for (const way of numbers(flags.ways).map((i) => WAYS[i])) {
  const outcomes = [];
  for (const seed of seeds) outcomes.push(await run(way, seed));
  const epochs = Number(flags.epochs);
  const means = Object.fromEntries(Object.keys(outcomes[0]).map((key) => [key, mean(outcomes.map((one) => one[key]))]));
  const accuracies = outcomes.map((one) => one.accuracy);
  result("quickstart", {
    who: way[0],
    problems: test.length,
    seeds,
    epochs,
    device: flags.device,
    accuracies,
    ...means,
  });
}
