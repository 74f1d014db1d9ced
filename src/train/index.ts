export { OPTIMIZERS, TrainingArguments, type TrainingArgumentsOptions } from "./arguments.ts";
export type { BatchSource } from "./batches.ts";
export type {
  CallbackContext,
  CallbackOrClass,
  CallbackState,
  LogRow,
  TrainerCallback,
  TrainerControl,
} from "./callbacks.ts";
export { getLastCheckpoint } from "./checkpoint-folders.ts";
export { DefaultFlowCallback } from "./default-flow.ts";
export { EarlyStoppingCallback, type EarlyStoppingOptions } from "./early-stopping.ts";
export { TrainingInterrupted } from "./interrupt.ts";
export {
  type ComputeLoss,
  crossEntropyLoss,
  type Forward,
  type HostLogs,
  type LossContext,
  type TracedLoss,
} from "./loss.ts";
export * as ops from "./loss-ops.ts";
export {
  argmax,
  type ComputeMetrics,
  type EvalPrediction,
  type Logits,
  type PreprocessLogits,
  type TokenRows,
} from "./predictions.ts";
export * from "./preference/index.ts";
export { PrinterCallback, ProgressCallback } from "./progress.ts";
export {
  type Answered,
  RewardConfig,
  type RewardData,
  type RewardDataReport,
  type RewardOptions,
  type RewardPair,
  RewardScorer,
  type RewardScorerOptions,
  RewardTrainer,
  type RewardTrainerOptions,
} from "./reward/index.ts";
export * from "./rl/index.ts";
export { type DataReport, SFTConfig, type SFTOptions, SFTTrainer, type SFTTrainerOptions } from "./sft.ts";
export type { TrainerState } from "./state.ts";
export { TensorBoardCallback } from "./tensorboard-callback.ts";
export { TokenizedSource } from "./tokenized-source.ts";
export { asTrainable, type TrainableModel } from "./trainable.ts";
export { type EvalSources, type PredictionOutput, Trainer, type TrainerOptions } from "./trainer.ts";
export type { TrainOptions, TrainOutput } from "./training-run.ts";
export { type Wandb, WandbCallback } from "./wandb-callback.ts";
