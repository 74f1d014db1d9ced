import { z } from "zod";
import { answerShape, configKind, positive, preferenceConfig } from "./config.ts";

/** What ORPO adds to TrainingArguments (TRL's ORPOConfig). */
export const orpoSchema = z.strictObject({
  ...answerShape,
  beta: positive().default(0.1).describe("weight of the odds ratio beside the next-token loss; the paper's λ"),
});
export type ORPOOptions = z.input<typeof orpoSchema>;
export type ORPOValues = z.output<typeof orpoSchema>;

export const ORPO_KIND = configKind("ORPOTrainer", orpoSchema);

/** TRL's ORPOConfig: TrainingArguments, with learningRate 1e-6 and loggingSteps 10 by default, and the above in one. */
export class ORPOConfig extends preferenceConfig<ORPOOptions, typeof orpoSchema>(ORPO_KIND) {}
