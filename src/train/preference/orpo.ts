import type { ScoredPair } from "../../data/preference-batch.ts";
import { TrainingArguments, type TrainingArgumentsOptions } from "../arguments.ts";
import { trainerFields } from "../trainer-fields.ts";
import { ownValues, parseValues } from "./config.ts";
import { ORPO_KIND, ORPOConfig, type ORPOOptions } from "./orpo-config.ts";
import { orpoLoss } from "./orpo-loss.ts";
import { dataOptions, pairPlan } from "./pairs.ts";
import { PreferenceTrainer, type PreferenceTrainerOptions, tokenizerOf, tracesWithoutDropout } from "./trainer.ts";

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
    const options = trainerFields(ORPO_KIND.owner, given, { settings: true });
    const { model, tokenizer: _, processingClass: __, trainDataset, evalDataset, callbacks, ...rest } = options;
    const { args: givenArgs, ...own } = rest;
    const { owner } = ORPO_KIND;
    const args = givenArgs instanceof TrainingArguments ? givenArgs : new ORPOConfig(givenArgs);
    const configured = args instanceof ORPOConfig && ownValues(ORPO_KIND, args);
    const values = parseValues(ORPO_KIND, own, configured);
    const tokenizer = tokenizerOf(owner, options);
    const disableDropout = tracesWithoutDropout(owner, model, values, args);
    super(options, {
      owner,
      args,
      values,
      ...pairPlan(tokenizer, { ...dataOptions(values), answerTokens: "merged" }, { wholeChosen: true }),
      loss: () => ({ loss: orpoLoss({ ...values, disableDropout }), reference: null, initial: null }),
    });
  }
}
