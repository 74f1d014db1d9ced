import assert from "node:assert/strict";
import { test } from "node:test";
import { openCpuBackend } from "../../backends/cpu/backend.ts";
import { Dataset } from "../../data/index.ts";
import { loadModel } from "../../models/load/load.ts";
import { addScoreHead } from "../../models/score-head.ts";
import { PeftModel } from "../../peft/index.ts";
import { oracleJson, oraclePath } from "../../testing/oracle.ts";
import type { LogRow } from "../callbacks.ts";
import { type PPOOptions, PPOTrainer } from "./ppo.ts";
import { gradientError, gradientKeeper, logError, wordTokenizer } from "./rl.test.support.ts";

interface Rollouts {
  readonly rows: { prompt: string }[];
  readonly completions: number[][];
}

interface Expected {
  readonly options: Record<string, unknown>;
  readonly seed: number;
  readonly updates: number;
  readonly log_history: LogRow[];
}

const backend = await openCpuBackend({ threads: 2, prefer: "native" });
const { rows, completions } = oracleJson<Rollouts>("rl", "ppo", "rollouts.json");
const fixture = (name: string): string => oraclePath("rl", "ppo", name);

for (const name of ["plain", "minibatches", "whitened"]) {
  test(`${name}: rewards, losses, metrics and gradients of 20 updates are TRL's`, async () => {
    const { options, seed, updates, log_history } = oracleJson<Expected>("rl", "ppo", `${name}.json`);
    const base = await loadModel({ path: oraclePath("families", "llama3", "model"), backend });
    addScoreHead(base);
    using model = await PeftModel.fromPretrained(base, fixture("adapter"), { isTrainable: true });
    await model.loadAdapter(fixture("value"), "value", { isTrainable: true });
    await model.loadAdapter(fixture("reward"), "reward");
    const given = completions.values();
    const kept = new Map<string, Float32Array>();
    const keeper = gradientKeeper([1, 4], kept);
    const length = Number(options.response_length);
    using trainer = new PPOTrainer({
      model,
      tokenizer: wordTokenizer(),
      rewardModel: "reward",
      trainDataset: Dataset.fromList(rows),
      args: { ...options, seed, saveStrategy: "no", logLevel: "error" } as PPOOptions,
      callbacks: [keeper],
      rolloutFunc: ({ prompts }) =>
        prompts.map(() => {
          const ids = given.next().value!;
          // As the fixture's script: without a stop token, all are of full length.
          if (options.stop_token) return ids;
          return Array.from({ length }, (_, t) => ids[t % ids.length]!);
        }),
    });
    await trainer.train();
    assert.equal(trainer.optimizer.step, updates);
    const history = trainer.state.logHistory.filter((row) => "loss" in row);
    // TRL's mean entropy counts padding, where there is any.
    const theirs = log_history.map(({ "policy/entropy_avg": entropy, ...row }) =>
      options.stop_token ? row : { ...row, "policy/entropy_avg": entropy! },
    );
    const { error, where } = logError(history, theirs);
    const gradient = gradientError(kept, "rl", "ppo", `${name}.safetensors`);
    assert.ok(error <= 1e-4, where);
    assert.ok(gradient <= 1e-4, `gradients are off by ${gradient}`);
  });
}
