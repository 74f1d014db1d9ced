import type { ScoredPair } from "../../data/preference-batch.ts";
import type { TrainingArguments, TrainingArgumentsOptions } from "../arguments.ts";
import { DPO_KIND, DPOConfig, type DPOOptions, dpoLosses } from "./dpo-config.ts";
import { dpoLoss, dpoReference } from "./dpo-loss.ts";
import { dataOptions, pairPlan } from "./pairs.ts";
import { planReference, type RefModel, useAdapter } from "./reference-plan.ts";
import { PreferenceTrainer, type PreferenceTrainerOptions, tokenizerOf, tracesWithoutDropout } from "./trainer.ts";
import { trainerSettings } from "./trainer-settings.ts";

export { DPOConfig, type DPOOptions, dpoSchema } from "./dpo-config.ts";

export interface DPOTrainerOptions extends PreferenceTrainerOptions, DPOOptions {
  /** The reference model; left out, it is the model as it is before training, with its adapter where that has an effect. */
  readonly refModel?: RefModel | null | undefined;
  /** Options as an object are those of DPOConfig. */
  readonly args?: TrainingArguments | (DPOOptions & TrainingArgumentsOptions) | undefined;
}

/**
 * Direct Preference Optimization (Rafailov et al. 2023) and its relatives: rows of a prompt with a better and a worse
 * answer. Rows with equal or empty answers are left out (`dataReport`). Throws OptionError for settings, and FormatError
 * naming file and line at a malformed row.
 */
export class DPOTrainer extends PreferenceTrainer<ScoredPair> {
  constructor(given: DPOTrainerOptions) {
    const { owner } = DPO_KIND;
    const { options, args, values } = trainerSettings(DPO_KIND, DPOConfig, given, ["refModel"]);
    const { model, refModel } = options;
    const losses = dpoLosses(values);
    const tokenizer = tokenizerOf(owner, options);
    useAdapter(owner, model, values.modelAdapterName);
    const disableDropout = tracesWithoutDropout(owner, model, values, args);
    const { ldAlpha } = values;
    const sorts = losses.some(({ type }) => type.startsWith("aot"));
    super(options, {
      owner,
      args,
      values,
      ...pairPlan(tokenizer, dataOptions(values), { ldAlpha, sorts }),
      loss(maxPositions) {
        const { precomputeRefLogProbs: precompute } = values;
        const plan = planReference({ ...values, owner, model, refModel, precompute, maxPositions });
        const { reference, scorer, initial } = plan;
        const loss = dpoLoss({ ...values, losses, reference, disableDropout });
        if (!scorer) return { loss, reference: null, initial };
        const size = values.precomputeRefBatchSize;
        return {
          loss,
          initial,
          reference: {
            plan: { ...plan, scorer },
            cacheDir: values.refCacheDir,
            settings: { ldAlpha },
            batchSize: { train: size ?? args.perDeviceTrainBatchSize, eval: size ?? args.perDeviceEvalBatchSize },
            forward: (ctx, trace) => ({ reference: dpoReference(ctx, trace, { ldAlpha }) }),
            numbers: ({ reference: all }, i, n) => [all![i]!, all![n + i]!],
          },
        };
      },
    });
  }
}
