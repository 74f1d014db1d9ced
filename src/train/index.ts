export { OPTIMIZERS, TrainingArguments, type TrainingArgumentsOptions } from "./arguments.ts";
export type { BatchSource } from "./batches.ts";
export type { CallbackContext, LogRow, TrainerCallback, TrainerControl } from "./callbacks.ts";
export { SFTConfig, type SFTOptions, SFTTrainer, type SFTTrainerOptions } from "./sft.ts";
export type { TrainerState } from "./state.ts";
export { type ComputeLoss, crossEntropyLoss, type LossContext } from "./step.ts";
export { asTrainable, type TrainableModel } from "./trainable.ts";
export { Trainer, type TrainerOptions, type TrainOutput } from "./trainer.ts";
