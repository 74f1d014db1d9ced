export { CPOConfig, type CPOOptions, CPOTrainer, type CPOTrainerOptions } from "./cpo.ts";
export { CPO_LOSS_TYPES, type CpoLossType } from "./cpo-loss.ts";
export {
  DPOConfig,
  type DPOOptions,
  DPOTrainer,
  DPOTrainer as UnslothDPOTrainer,
  type DPOTrainerOptions,
} from "./dpo.ts";
export { DPO_LOSS_TYPES, type DpoLossType, type FDivergence } from "./dpo-losses.ts";
export { KTOConfig, type KTOOptions, KTOTrainer, type KTOTrainerOptions } from "./kto.ts";
export { KTO_LOSS_TYPES, type KtoLossType } from "./kto-loss.ts";
export { ORPOConfig, type ORPOOptions, ORPOTrainer, type ORPOTrainerOptions } from "./orpo.ts";
export { type PreferenceDatasets, PreferenceTrainer, type PreferenceTrainerOptions } from "./trainer.ts";
