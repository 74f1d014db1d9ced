import { z } from "zod";
import { GRPOConfig, GRPOTrainer } from "../../train/rl/grpo.ts";
import { grpoSchema } from "../../train/rl/grpo-config.ts";
import { UsageError } from "../exit.ts";
import { type CliMethod, METHOD_DEFAULTS, takenBy } from "./method.ts";
import { loadRewards } from "./reward-functions.ts";
import { grpoPlan } from "./rollout-plan.ts";

/** Reward functions by name, as a setting. */
export const rewardFuncs = z
  .union([z.string().min(1), z.array(z.string().min(1)).min(1)])
  .optional()
  .describe('rewards: exact_match or number_match (against the column "answer"), or FILE.mjs#function; several add up');

export const GRPO: CliMethod = {
  name: "grpo",
  heading: "Rollouts:",
  description: "train by rewards on groups of sampled answers (GRPO and its variants)",
  rows: '{"prompt"}, text or messages; other columns go to the reward functions',
  example: ["--data prompts.jsonl", "--reward-funcs number_match", "--num-generations 8"],
  schema: grpoSchema.extend({ rewardFuncs }),
  ownSettings: ["rewardFuncs"],
  defaults: { ...METHOD_DEFAULTS, perDeviceTrainBatchSize: 8, gradientAccumulationSteps: 1 },
  isForeign: takenBy(GRPOConfig),
  evalMetrics: ["eval_loss", "eval_reward"],
  sweepMetrics: ["eval_reward", "train_reward"],
  trainMetric: "reward",
  copiesAdapter: (args) => (args as GRPOConfig).beta !== 0 && (args as GRPOConfig).refAdapterName === null,
  rollouts: grpoPlan,
  async trainer({ options, own, ...parts }) {
    const names = own.rewardFuncs as string | readonly string[] | undefined;
    if (names === undefined)
      throw new UsageError("reward_funcs is missing: give --reward-funcs NAME or FILE.mjs#function");
    return new GRPOTrainer({
      ...parts,
      rewardFuncs: await loadRewards([names].flat(), parts.trainDataset),
      args: new GRPOConfig(options),
    });
  },
};
