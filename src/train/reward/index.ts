export { RewardConfig, type RewardOptions } from "./config.ts";
export type { RewardData, RewardDataReport } from "./data.ts";
export type { RewardPair } from "./pairs.ts";
export { RewardTrainer, type RewardTrainerOptions } from "./reward-trainer.ts";
export { type Answered, RewardScorer, type RewardScorerOptions } from "./scorer.ts";
