import type { ScoredPair } from "../../data/preference-batch.ts";
import { TrainingArguments, type TrainingArgumentsOptions } from "../arguments.ts";
import { ownValues, parseValues } from "./config.ts";
import { ORPO_KIND, ORPOConfig, type ORPOOptions } from "./orpo-config.ts";
import { orpoLoss } from "./orpo-loss.ts";
import { dataOptions, defined, pairPlan } from "./pairs.ts";
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
  constructor(options: ORPOTrainerOptions) {
    const { model, tokenizer: _, processingClass: __, trainDataset, evalDataset, callbacks, ...rest } = options;
    const { args: given, ...own } = rest;
    const { owner } = ORPO_KIND;
    const args = given instanceof TrainingArguments ? given : new ORPOConfig(given);
    const configured = args instanceof ORPOConfig && ownValues(ORPO_KIND, args);
    const values = parseValues(ORPO_KIND, { ...configured, ...defined(own) });
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
