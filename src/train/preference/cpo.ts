import type { ScoredPair } from "../../data/preference-batch.ts";
import { TrainingArguments, type TrainingArgumentsOptions } from "../arguments.ts";
import { trainerFields } from "../trainer-fields.ts";
import { ownValues, parseValues } from "./config.ts";
import { CPO_KIND, CPOConfig, type CPOOptions, cpoLossValues } from "./cpo-config.ts";
import { cpoLoss } from "./cpo-loss.ts";
import { dataOptions, pairPlan } from "./pairs.ts";
import { PreferenceTrainer, type PreferenceTrainerOptions, tokenizerOf, tracesWithoutDropout } from "./trainer.ts";

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
    const options = trainerFields(CPO_KIND.owner, given, { settings: true });
    const { model, tokenizer: _, processingClass: __, trainDataset, evalDataset, callbacks, ...rest } = options;
    const { args: givenArgs, ...own } = rest;
    const { owner } = CPO_KIND;
    const args = givenArgs instanceof TrainingArguments ? givenArgs : new CPOConfig(givenArgs);
    const configured = args instanceof CPOConfig && ownValues(CPO_KIND, args);
    const values = cpoLossValues(parseValues(CPO_KIND, own, configured));
    const tokenizer = tokenizerOf(owner, options);
    const disableDropout = tracesWithoutDropout(owner, model, values, args);
    super(options, {
      owner,
      args,
      values,
      ...pairPlan(tokenizer, { ...dataOptions(values), answerTokens: "merged" }, {}),
      loss: () => ({ loss: cpoLoss({ ...values, disableDropout }), reference: null, initial: null }),
    });
  }
}
