// Preference training of the embedded model on the CPU, in about a minute: pairs of a right and a wrong answer to sums and
// differences asked for in words it does not know. Prints reward accuracies and exact answers before and after.
// usage: node examples/dpo.mjs [LOSS_TYPE [RPO_ALPHA]]
//   LOSS_TYPE: DPO's, "sigmoid" when left out; RPO_ALPHA: weight of the chosen answers' next-token loss, 1 when left out
import { fileURLToPath } from "node:url";
import { Dataset, DPOTrainer, FastLanguageModel, generate, openCpuBackend } from "unsloth";

const [lossType = "sigmoid", rpoAlpha = "1"] = process.argv.slice(2);
const [TRAIN, TEST, SEED] = [400, 100, 3407];

/** Questions, and whether they ask for the sum or the difference. */
const QUESTIONS = [
  [(a, b) => `Please add ${a} and ${b}.`, "+"],
  [(a, b) => `Find the sum of ${a} and ${b}.`, "+"],
  [(a, b) => `Subtract ${b} from ${a}.`, "-"],
  [(a, b) => `Find the difference of ${a} and ${b}.`, "-"],
];

/** Numbers in [0, below), the same for the same seed (mulberry32). */
function random(seed) {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

const equation = (a, op, b) => `${a}${op}${b}=${op === "+" ? a + b : a - b}`;

/** Different problems, with an answer that does what was asked and one that does not, or is wrong by ten. */
function problems(count, seed, seen = new Set()) {
  const draw = random(seed);
  const rows = [];
  while (rows.length < count) {
    const [ask, op] = QUESTIONS[draw(QUESTIONS.length)];
    const a = 20 + draw(80);
    const b = 10 + draw(a - 10);
    const prompt = ask(a, b);
    if (seen.has(`${a},${b}`)) continue;
    seen.add(`${a},${b}`);
    const right = equation(a, op, b);
    const result = Number(right.split("=")[1]);
    const slip = `${right.split("=")[0]}=${result + (result < 15 || draw(2) === 0 ? 10 : -10)}`;
    const wrong = draw(3) === 0 ? slip : equation(a, op === "+" ? "-" : "+", b);
    const say = (content) => [{ role: "assistant", content }];
    rows.push({ prompt: [{ role: "user", content: prompt }], chosen: say(right), rejected: say(wrong) });
  }
  return rows;
}

const seen = new Set();
const test = problems(TEST, SEED, seen);
const train = problems(TRAIN, SEED + 1, seen);

const started = performance.now();
const backend = await openCpuBackend();
const { model: base, tokenizer } = await FastLanguageModel.fromPretrained({
  modelName: fileURLToPath(new URL("../models/tiny-math", import.meta.url)),
  maxSeqLength: 128,
  backend,
});
const model = await FastLanguageModel.getPeftModel(base, { r: 16, loraAlpha: 32, randomState: SEED });
const trainer = new DPOTrainer({
  model,
  tokenizer,
  trainDataset: Dataset.fromList(train),
  evalDataset: Dataset.fromList(test),
  args: {
    lossType,
    rpoAlpha: Number(rpoAlpha),
    beta: 0.1,
    learningRate: 1e-3,
    numTrainEpochs: 2,
    perDeviceTrainBatchSize: 8,
    perDeviceEvalBatchSize: 25,
    lrSchedulerType: "cosine",
    warmupSteps: 5,
    loggingSteps: 10,
    saveStrategy: "no",
    logLevel: "error",
    outputDir: "outputs/dpo",
    seed: SEED,
  },
});

/** Share of held-out problems whose greedy answer begins with the right equation; prints one answer. */
async function exactAnswers() {
  const prompts = test.map(({ prompt }) => tokenizer.applyChatTemplate(prompt, { addGenerationPrompt: true }));
  const outputs = await generate(base, tokenizer, prompts, { maxNewTokens: 24 });
  console.log(`  ${test[0].prompt[0].content} → ${outputs[0].text.trim()}`);
  return outputs.filter(({ text }, i) => /^\d+[+-]\d+=\d+/.exec(text)?.[0] === test[i].chosen[0].content).length / TEST;
}

async function measure(when) {
  const {
    eval_loss,
    "eval_rewards/accuracies": accuracies,
    "eval_rewards/margins": margins,
  } = await trainer.evaluate();
  const exact = await exactAnswers();
  const percent = (share) => `${(100 * share).toFixed(0)}%`;
  console.log(
    `${when}: eval_rewards/accuracies ${accuracies.toFixed(3)}, margins ${margins.toFixed(2)}, loss ${eval_loss.toFixed(4)}; ` +
      `exact answers ${percent(exact)}`,
  );
}

await measure("before");
const { trainingLoss, globalStep } = await trainer.train();
console.log(`${globalStep} steps, mean loss ${trainingLoss.toFixed(4)}`);
await measure("after");
console.log(`${((performance.now() - started) / 1000).toFixed(0)} seconds on ${backend.description}`);
trainer.dispose();
model.dispose();
backend.dispose();
