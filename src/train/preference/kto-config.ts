import { z } from "zod";
import { answerShape, configKind, positive, preferenceConfig, referenceShape } from "./config.ts";
import { KTO_LOSS_TYPES } from "./kto-loss.ts";

/** What KTO adds to TrainingArguments (TRL's KTOConfig). */
export const ktoSchema = z.strictObject({
  ...answerShape,
  ...referenceShape,
  lossType: z.enum(KTO_LOSS_TYPES).default("kto").describe("loss of an answer"),
  beta: positive().default(0.1).describe("how close to stay to the reference model: higher is closer"),
  desirableWeight: z.number().min(0).default(1).describe("weight of wanted answers"),
  undesirableWeight: z.number().min(0).default(1).describe("weight of unwanted answers"),
});
export type KTOOptions = z.input<typeof ktoSchema>;
export type KTOValues = z.output<typeof ktoSchema>;

export const KTO_KIND = configKind("KTOTrainer", ktoSchema, {
  reference: true,
  defaults: { trainSamplingStrategy: "sequential" },
});

/**
 * TRL's KTOConfig: TrainingArguments, with learningRate 1e-6, loggingSteps 10 and the rows in their order by default, and
 * the above in one.
 */
export class KTOConfig extends preferenceConfig<KTOOptions, typeof ktoSchema>(KTO_KIND) {}
