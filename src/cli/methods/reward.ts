import { addScoreHead } from "../../models/score-head.ts";
import { rewardSchema } from "../../train/reward/config.ts";
import { RewardConfig, RewardTrainer } from "../../train/reward/index.ts";
import { type CliMethod, METHOD_DEFAULTS, takenBy } from "./method.ts";

export const REWARD: CliMethod = {
  name: "reward",
  heading: "Rewards:",
  description: "train a reward model: a score head that prefers chosen answers",
  rows: '{"prompt", "chosen", "rejected"} or {"chosen", "rejected"}, text or messages, with an optional "margin"',
  example: ["--data preferences.jsonl", "--max-steps 100"],
  schema: rewardSchema,
  defaults: METHOD_DEFAULTS,
  isForeign: takenBy(RewardConfig),
  prepare: (lm) => addScoreHead(lm),
  adapterDefaults: { taskType: "SEQ_CLS" },
  evalMetrics: ["eval_loss", "eval_accuracy", "eval_margin"],
  trainer: ({ options, own: _, ...parts }) => new RewardTrainer({ ...parts, args: new RewardConfig(options) }),
};
