import type { ScoredPair } from "../../data/preference-batch.ts";
import type { TrainingArguments, TrainingArgumentsOptions } from "../arguments.ts";
import { CPO_KIND, CPOConfig, type CPOOptions, cpoLossValues } from "./cpo-config.ts";
import { cpoLoss } from "./cpo-loss.ts";
import { dataOptions, pairPlan } from "./pairs.ts";
import { PreferenceTrainer, type PreferenceTrainerOptions, tokenizerOf, tracesWithoutDropout } from "./trainer.ts";
import { trainerSettings } from "./trainer-settings.ts";

export { CPOConfig, type CPOOptions, cpoSchema } from "./cpo-config.ts";

export interface CPOTrainerOptions extends PreferenceTrainerOptions, CPOOptions {
  /** Options as an object are those of CPOConfig. */
  readonly args?: TrainingArguments | (CPOOptions & TrainingArgumentsOptions) | undefined;
}

/**
 * Contrastive Preference Optimization (Xu et al. 2024), and SimPO (lossType "simpo", cpoAlpha 0): preferences without a
 * reference model. Rows and errors as DPOTrainer's; answers always end with EOS (TRL's CPOTrainer).
 */
export class CPOTrainer extends PreferenceTrainer<ScoredPair> {
  constructor(given: CPOTrainerOptions) {
    const { owner } = CPO_KIND;
    const { options, args, values: own } = trainerSettings(CPO_KIND, CPOConfig, given);
    const values = cpoLossValues(own);
    const tokenizer = tokenizerOf(owner, options);
    const disableDropout = tracesWithoutDropout(owner, options.model, values, args);
    super(options, {
      owner,
      args,
      values,
      ...pairPlan(tokenizer, { ...dataOptions(values), answerTokens: "merged" }, {}),
      loss: () => ({ loss: cpoLoss({ ...values, disableDropout }), reference: null, initial: null }),
    });
  }
}
