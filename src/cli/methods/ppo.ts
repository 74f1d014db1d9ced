import { PeftModel } from "../../peft/index.ts";
import { addValueAdapter, PPOConfig, PPOTrainer } from "../../train/rl/index.ts";
import { ppoSchema } from "../../train/rl/ppo-config.ts";
import { UsageError } from "../exit.ts";
import { rewardFuncs } from "./grpo.ts";
import { type CliMethod, METHOD_DEFAULTS, takenBy } from "./method.ts";
import { loadRewards } from "./reward-functions.ts";
import { ppoPlan } from "./rollout-plan.ts";

export const PPO: CliMethod = {
  name: "ppo",
  heading: "Rollouts:",
  description: "train by a reward on sampled answers with a value model (PPO)",
  rows: '{"prompt"}, text or messages; other columns go to the reward function',
  example: ["--data prompts.jsonl", "--reward-funcs number_match", "--response-length 53"],
  schema: ppoSchema.extend({ rewardFuncs }),
  ownSettings: ["rewardFuncs"],
  defaults: { ...METHOD_DEFAULTS, perDeviceTrainBatchSize: 8, gradientAccumulationSteps: 1 },
  isForeign: takenBy(PPOConfig),
  evalMetrics: [],
  sweepMetrics: ["train_objective/scores", "train_objective/scores"],
  trainMetric: "objective/scores",
  rollouts: ppoPlan,
  async trainer({ options, own, model, ...parts }) {
    const names = [(own.rewardFuncs as string | readonly string[] | undefined) ?? []].flat();
    if (names.length !== 1)
      throw new UsageError("reward_funcs: ppo takes one: --reward-funcs NAME or FILE.mjs#function");
    if (!(model instanceof PeftModel)) throw new UsageError("ppo trains an adapter: leave fullFinetuning out");
    const [rewardModel] = await loadRewards(names, parts.trainDataset);
    await addValueAdapter(model);
    return new PPOTrainer({ ...parts, model, rewardModel: rewardModel!, args: new PPOConfig(options) });
  },
};
