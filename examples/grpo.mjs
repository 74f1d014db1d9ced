// GRPO of the embedded model on the CPU, in about a minute: two-step arithmetic, learnt from nothing but whether the answer
// is right. A few steps of supervised training show the model the form of an answer first.
// Prints exact answers to held-out problems before and after. usage: node examples/grpo.mjs
import { fileURLToPath } from "node:url";
import { Dataset, FastLanguageModel, GRPOTrainer, generate, openCpuBackend, SFTTrainer } from "unsloth";
import { finalNumber, problems } from "./arithmetic.mjs";

const SEED = 3407;
const seen = new Set();
const test = problems(100, 1, seen);
const train = problems(400, 2, seen);

const started = performance.now();
const backend = await openCpuBackend();
const { model: base, tokenizer } = await FastLanguageModel.fromPretrained({
  modelName: fileURLToPath(new URL("../models/tiny-math", import.meta.url)),
  maxSeqLength: 128,
  backend,
});
const model = await FastLanguageModel.getPeftModel(base, { r: 16, loraAlpha: 32, randomState: SEED });
const quiet = { logLevel: "error", saveStrategy: "no", outputDir: "outputs/grpo", seed: SEED };

/** Share of held-out problems whose greedy answer ends with the right number. */
async function exactAnswers(when) {
  const prompts = test.map(({ prompt }) => tokenizer.applyChatTemplate(prompt, { addGenerationPrompt: true }));
  const outputs = await generate(base, tokenizer, prompts, { maxNewTokens: 32 });
  const right = outputs.filter(({ text }, i) => finalNumber(text) === test[i].answer).length;
  console.log(
    `${when}: ${right} of ${test.length} right; ${test[1].prompt[0].content} → ${JSON.stringify(outputs[1].text)}`,
  );
}

const sft = new SFTTrainer({
  model,
  tokenizer,
  trainDataset: Dataset.fromList(train.slice(0, 64).map(({ messages }) => ({ messages }))),
  assistantOnlyLoss: true,
  args: { ...quiet, perDeviceTrainBatchSize: 16, maxSteps: 10, learningRate: 2e-3 },
});
await sft.train();
sft.dispose();
await exactAnswers("after 10 steps of SFT");

/** 1 for a right answer, 0 for a wrong one: a reward that can be checked. */
const correct = ({ completions, answer }) =>
  completions.map(([{ content }], i) => (finalNumber(content) === answer[i] ? 1 : 0));

const grpo = new GRPOTrainer({
  model,
  tokenizer,
  rewardFuncs: correct,
  trainDataset: Dataset.fromList(train.map(({ prompt, answer }) => ({ prompt, answer }))),
  args: {
    ...quiet,
    perDeviceTrainBatchSize: 32,
    gradientAccumulationSteps: 2,
    numGenerations: 8,
    maxCompletionLength: 32,
    maxSteps: 60,
    learningRate: 1e-3,
    lrSchedulerType: "constant",
    loggingSteps: 10,
  },
  callbacks: [
    {
      onLog: ({ state }, { reward, entropy }) => {
        if (reward !== undefined) {
          console.log(`step ${state.globalStep}: reward ${reward.toFixed(3)}, entropy ${entropy.toFixed(3)}`);
        }
      },
    },
  ],
});
await grpo.train();
await exactAnswers("after 60 steps of GRPO");
console.log(`${((performance.now() - started) / 1000).toFixed(0)} seconds on ${backend.description}`);
grpo.dispose();
model.dispose();
backend.dispose();
