import { z } from "zod";
import { TrainingArguments, type TrainingArgumentsOptions } from "../arguments.ts";
import { answerShape, configKind, positive, splitOptions } from "./config.ts";

/** What ORPO adds to TrainingArguments (TRL's ORPOConfig). */
export const orpoSchema = z.strictObject({
  ...answerShape,
  beta: positive().default(0.1).describe("weight of the odds ratio beside the next-token loss; the paper's λ"),
});
export type ORPOOptions = z.input<typeof orpoSchema>;
export type ORPOValues = z.output<typeof orpoSchema>;

export const ORPO_KIND = configKind("ORPOTrainer", orpoSchema);

// The values are properties; the constructor assigns them.
const Base = TrainingArguments as new (options: object) => TrainingArguments & Readonly<ORPOValues>;

/** TRL's ORPOConfig: TrainingArguments, with learningRate 1e-6 and loggingSteps 10 by default, and the above in one. */
export class ORPOConfig extends Base {
  constructor(options: (ORPOOptions & TrainingArgumentsOptions) | Readonly<Record<string, unknown>> = {}) {
    const { own, args } = splitOptions(ORPO_KIND, options);
    super(args);
    Object.assign(this, own);
  }
}
