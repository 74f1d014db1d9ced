// PPO of the embedded model on the CPU, in about a minute: policy, value model and reference share one base. The same
// problems and reward as grpo.mjs. Prints the score and how far the policy has gone from the reference (KL).
// usage: node examples/ppo.mjs
import { fileURLToPath } from "node:url";
import { addValueAdapter, Dataset, FastLanguageModel, generate, openCpuBackend, PPOTrainer, SFTTrainer } from "unsloth";
import { finalNumber, problems } from "./arithmetic.mjs";

const SEED = 3407;
const seen = new Set();
const test = problems(100, 1, seen);
const train = problems(400, 2, seen);

const started = performance.now();
const backend = await openCpuBackend();
const { model: loaded, tokenizer } = await FastLanguageModel.fromPretrained({
  modelName: fileURLToPath(new URL("../models/tiny-math", import.meta.url)),
  maxSeqLength: 128,
  backend,
});
const lora = { r: 16, loraAlpha: 32, randomState: SEED };
const quiet = { logLevel: "error", saveStrategy: "no", outputDir: "outputs/ppo", seed: SEED };

/** Share of held-out problems whose greedy answer ends with the right number. */
async function exactAnswers(model, when) {
  const prompts = test.map(({ prompt }) => tokenizer.applyChatTemplate(prompt, { addGenerationPrompt: true }));
  const outputs = await generate(model, tokenizer, prompts, { maxNewTokens: 32 });
  const right = outputs.filter(({ text }, i) => finalNumber(text) === test[i].answer).length;
  console.log(`${when}: ${right} of ${test.length} right`);
}

const first = await FastLanguageModel.getPeftModel(loaded, lora);
const sft = new SFTTrainer({
  model: first,
  tokenizer,
  trainDataset: Dataset.fromList(train.slice(0, 64).map(({ messages }) => ({ messages }))),
  assistantOnlyLoss: true,
  args: { ...quiet, perDeviceTrainBatchSize: 16, maxSteps: 10, learningRate: 2e-3 },
});
await sft.train();
sft.dispose();
// The reference is the model without its adapter: what supervised training taught must be in the weights.
const base = await first.mergeAndUnload();
await exactAnswers(base, "after 10 steps of SFT");

const policy = await FastLanguageModel.getPeftModel(base, lora);
await addValueAdapter(policy);
const ppo = new PPOTrainer({
  model: policy,
  tokenizer,
  rewardModel: ({ completions, answer }) =>
    completions.map(([{ content }], i) => (finalNumber(content) === answer[i] ? 1 : 0)),
  trainDataset: Dataset.fromList(train.map(({ prompt, answer }) => ({ prompt, answer }))),
  args: {
    ...quiet,
    perDeviceTrainBatchSize: 64,
    numPpoEpochs: 2,
    numMiniBatches: 2,
    responseLength: 24,
    stopToken: "eos",
    temperature: 1,
    klCoef: 0.02,
    vfCoef: 1,
    maxSteps: 40,
    learningRate: 1e-3,
    lrSchedulerType: "constant",
    loggingSteps: 5,
  },
  callbacks: [
    {
      onLog: ({ state }, row) => {
        if (row["objective/kl"] === undefined) return;
        const [score, kl, value] = ["objective/scores", "objective/kl", "loss/value_avg"].map((key) =>
          row[key].toFixed(3),
        );
        console.log(`rollout ${state.globalStep}: score ${score}, KL ${kl}, value loss ${value}`);
      },
    },
  ],
});
await ppo.train();
await exactAnswers(base, "after 40 rollouts of PPO");
console.log(`${((performance.now() - started) / 1000).toFixed(0)} seconds on ${backend.description}`);
ppo.dispose();
policy.dispose();
backend.dispose();
