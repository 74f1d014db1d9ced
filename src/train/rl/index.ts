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
export {
  type AddValueAdapterOptions,
  addValueAdapter,
  PPOConfig,
  type PPOOptions,
  PPOTrainer,
  type PPOTrainerOptions,
} from "./ppo.ts";
