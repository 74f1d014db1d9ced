import assert from "node:assert/strict";
import { test } from "node:test";
import { openCpuBackend } from "../../backends/cpu/backend.ts";
import { Dataset } from "../../data/index.ts";
import { loadModel } from "../../models/load/load.ts";
import { PeftModel } from "../../peft/index.ts";
import { oracleJson, oraclePath } from "../../testing/oracle.ts";
import type { LogRow } from "../callbacks.ts";
import { type GRPOOptions, GRPOTrainer, type RewardFunction } from "./grpo.ts";
import { gradientError, gradientKeeper, logError, wordTokenizer } from "./rl.test.support.ts";

interface Rollouts {
  readonly rows: { prompt: string; target: number }[];
  readonly completions: number[][];
}

interface Expected {
  readonly options: Record<string, unknown>;
  readonly ref_model?: "base";
  readonly seed: number;
  readonly log_history: LogRow[];
}

const backend = await openCpuBackend({ threads: 2, prefer: "native" });
const { rows, completions } = oracleJson<Rollouts>("rl", "grpo", "rollouts.json");

const evens: RewardFunction = ({ completionIds }) =>
  completionIds.map((ids) => ids.filter((id) => id % 2 === 0).length / ids.length);
const near: RewardFunction = ({ completionIds, target }) =>
  completionIds.map((ids, i) => (ids.length === 2 ? null : 1 / (1 + Math.abs(ids[0]! - Number(target![i])) / 10)));

const CASES = [
  "grpo",
  "bnpo",
  "dr_grpo",
  "dapo",
  "cispo",
  "sapo",
  "luspo",
  "vespo",
  "gspo",
  "entropy",
  "off_policy",
  "bonus",
  "bonus_top",
  "adaptive",
];

for (const name of CASES) {
  test(`${name}: losses, metrics and gradients of 20 steps are TRL's`, async () => {
    const expected = oracleJson<Expected>("rl", "grpo", `${name}.json`);
    const base = await loadModel({ path: oraclePath("families", "llama3", "model"), backend });
    using model = await PeftModel.fromPretrained(base, oraclePath("rl", "grpo", "adapter"), { isTrainable: true });
    const given = completions.values();
    const kept = new Map<string, Float32Array>();
    using trainer = new GRPOTrainer({
      model,
      tokenizer: wordTokenizer(),
      rewardFuncs: "reward_weights" in expected.options ? [evens, near] : evens,
      refModel: expected.ref_model,
      trainDataset: Dataset.fromList(rows),
      args: {
        ...expected.options,
        seed: expected.seed,
        saveStrategy: "no",
        logLevel: "error",
      } as GRPOOptions,
      callbacks: [gradientKeeper([1, 4], kept)],
      rolloutFunc: ({ prompts, numGenerations }) =>
        Array.from({ length: prompts.length * numGenerations }, () => given.next().value!),
    });
    await trainer.train();
    const history = trainer.state.logHistory.filter((row) => "loss" in row);
    const { error, where } = logError(history, expected.log_history);
    const gradient = gradientError(kept, "rl", "grpo", `${name}.safetensors`);
    assert.ok(error <= 1e-4, where);
    assert.ok(gradient <= 1e-4, `gradients are off by ${gradient}`);
  });
}
