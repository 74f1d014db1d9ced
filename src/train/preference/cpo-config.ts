import { z } from "zod";
import { OptionError } from "../../util/options.ts";
import { answerShape, configKind, positive, preferenceConfig } from "./config.ts";
import { CPO_LOSS_TYPES, type CpoLossType } from "./cpo-loss.ts";

/** What CPO adds to TrainingArguments (TRL's CPOConfig). */
export const cpoSchema = z.strictObject({
  ...answerShape,
  lossType: z
    .enum([...CPO_LOSS_TYPES, "alphapo"])
    .default("sigmoid")
    .describe('loss of a pair; "alphapo" is "simpo" with cpoAlpha 0'),
  beta: positive().default(0.1).describe("weight of the reward difference"),
  labelSmoothing: z.number().min(0).max(0.5).default(0).describe("share of the pairs that may be the wrong way round"),
  cpoAlpha: z.number().default(1).describe("weight of the chosen answers' next-token loss"),
  simpoGamma: z.number().default(0.5).describe("reward difference that simpo aims at"),
  alpha: z.number().default(0).describe("AlphaPO's: rewards (1 − p^−α)/α instead of log p; 0: log p"),
});
export type CPOOptions = z.input<typeof cpoSchema>;
export type CPOValues = z.output<typeof cpoSchema>;

export const CPO_KIND = configKind("CPOTrainer", cpoSchema);

/** TRL's CPOConfig: TrainingArguments, with learningRate 1e-6 and loggingSteps 10 by default, and the above in one. */
export class CPOConfig extends preferenceConfig<CPOOptions, typeof cpoSchema>(CPO_KIND) {}

/** Loss and weights with what "alphapo" stands for. Throws OptionError. */
export function cpoLossValues(values: CPOValues): CPOValues & { lossType: CpoLossType } {
  const { lossType, labelSmoothing } = values;
  if (lossType === "alphapo") return { ...values, lossType: "simpo", cpoAlpha: 0 };
  if (labelSmoothing > 0 && (lossType === "hinge" || lossType === "ipo")) {
    throw new OptionError(
      `CPOTrainer: labelSmoothing changes nothing in loss "${lossType}"; sigmoid and simpo have it`,
    );
  }
  return { ...values, lossType };
}
