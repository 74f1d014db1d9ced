export {
  GRPO_LOSS_TYPES,
  GRPOConfig,
  type GRPOLossType,
  type GRPOOptions,
  GRPOTrainer,
  type GRPOTrainerOptions,
  type PromptDatasets,
  type RewardArguments,
  RewardError,
  type RewardFunction,
  type RolloutFunction,
  type TextOrMessages,
} from "./grpo.ts";
