import assert from "node:assert/strict";
import { test } from "node:test";
import { Dataset } from "../../data/index.ts";
import type { TrainerCallback } from "../callbacks.ts";
import { ProgressCallback } from "../progress.ts";
import { openBackend, tinyPeft } from "../tiny-training.test.support.ts";
import { GRPOTrainer } from "./grpo.ts";
import { addValueAdapter, PPOTrainer } from "./ppo.ts";
import { wordTokenizer } from "./rl.test.support.ts";

const backend = await openBackend();
const trainDataset = Dataset.fromList([{ prompt: "t4 t5" }, { prompt: "t6" }, { prompt: "t7" }, { prompt: "t8" }]);
const quiet = { logLevel: "error", saveStrategy: "no", loggingSteps: 1, maxSteps: 2 } as const;
const first = ({ completionIds }: { readonly completionIds: readonly (readonly number[])[] }): number[] =>
  completionIds.map(([id]) => id! % 2);

/** Callbacks that keep what a terminal would show, and the events of rollouts. */
function watch(): { callbacks: TrainerCallback[]; text: () => string; events: string[] } {
  let shown = "";
  const events: string[] = [];
  const stream = {
    isTTY: true,
    write: (piece: string) => {
      shown += piece;
    },
  };
  const memory = () => backend.memory();
  const watcher: TrainerCallback = {
    onRolloutBegin: (_, { completions }) => void events.push(`begin ${completions}`),
    onRolloutEnd: (_, { completions, tokens }) => void events.push(`end ${completions} ${tokens! > 0}`),
    onStepEnd: ({ state }) => void events.push(`step ${state.globalStep}`),
  };
  return { callbacks: [new ProgressCallback({ memory, stream }), watcher], text: () => shown, events };
}

test("GRPO: the bar says when completions are being generated, and callbacks are told", async () => {
  const { callbacks, text, events } = watch();
  using trainer = new GRPOTrainer({
    model: await tinyPeft(backend),
    tokenizer: wordTokenizer(61),
    rewardFuncs: first,
    trainDataset,
    args: { ...quiet, perDeviceTrainBatchSize: 4, numGenerations: 2, maxCompletionLength: 3 },
    callbacks,
  });
  await trainer.train();
  assert.deepEqual(events, ["begin 4", "end 4 true", "step 1", "begin 4", "end 4 true", "step 2"]);
  assert.match(text(), /step 0\/2, [^\r]* left, generating 4 completions …\r/);
  assert.match(text(), /step 1\/2, loss [^\r]* left, generating 4 completions …\r/);
  assert.match(text(), /step 2\/2, [^\r]* left\n$/);
});

test("PPO: the same", async () => {
  const { callbacks, text, events } = watch();
  const model = await tinyPeft(backend);
  await addValueAdapter(model);
  using trainer = new PPOTrainer({
    model,
    tokenizer: wordTokenizer(61),
    rewardModel: first,
    trainDataset,
    args: { ...quiet, perDeviceTrainBatchSize: 4, responseLength: 3, numPpoEpochs: 1 },
    callbacks,
  });
  await trainer.train();
  assert.deepEqual(events, ["begin 4", "end 4 true", "step 1", "begin 4", "end 4 true", "step 2"]);
  assert.match(text(), /generating 4 completions …\r/);
});
