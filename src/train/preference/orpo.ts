import type { ScoredPair } from "../../data/preference-batch.ts";
import type { TrainingArguments, TrainingArgumentsOptions } from "../arguments.ts";
import { ORPO_KIND, ORPOConfig, type ORPOOptions } from "./orpo-config.ts";
import { orpoLoss } from "./orpo-loss.ts";
import { dataOptions, pairPlan } from "./pairs.ts";
import { PreferenceTrainer, type PreferenceTrainerOptions, tokenizerOf, tracesWithoutDropout } from "./trainer.ts";
import { trainerSettings } from "./trainer-settings.ts";

export { ORPOConfig, type ORPOOptions, orpoSchema } from "./orpo-config.ts";

export interface ORPOTrainerOptions extends PreferenceTrainerOptions, ORPOOptions {
  /** Options as an object are those of ORPOConfig. */
  readonly args?: TrainingArguments | (ORPOOptions & TrainingArgumentsOptions) | undefined;
}

/**
 * Odds Ratio Preference Optimization (Hong et al. 2024): fine-tuning and preferences in one, without a reference model.
 * Rows and errors as DPOTrainer's; answers always end with EOS (TRL's ORPOTrainer).
 */
export class ORPOTrainer extends PreferenceTrainer<ScoredPair> {
  constructor(given: ORPOTrainerOptions) {
    const { owner } = ORPO_KIND;
    const { options, args, values } = trainerSettings(ORPO_KIND, ORPOConfig, given);
    const tokenizer = tokenizerOf(owner, options);
    const disableDropout = tracesWithoutDropout(owner, options.model, values, args);
    super(options, {
      owner,
      args,
      values,
      ...pairPlan(tokenizer, { ...dataOptions(values), answerTokens: "merged" }, { wholeChosen: true }),
      loss: () => ({ loss: orpoLoss({ ...values, disableDropout }), reference: null, initial: null }),
    });
  }
}
