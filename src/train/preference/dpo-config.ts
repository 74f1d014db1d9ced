import { z } from "zod";
import { OptionError } from "../../util/options.ts";
import { answerShape, configKind, positive, preferenceConfig, referenceShape } from "./config.ts";
import { DIVERGENCE_LOSSES, DPO_LOSS_TYPES, type DpoLossType, F_DIVERGENCES } from "./dpo-losses.ts";

const lossType = z.enum(DPO_LOSS_TYPES);

/** What DPO adds to TrainingArguments (TRL's DPOConfig). */
export const dpoSchema = z.strictObject({
  ...answerShape,
  ...referenceShape,
  lossType: z
    .union([lossType, z.array(lossType).nonempty()])
    .default("sigmoid")
    .describe("loss of a pair, or several that are added up"),
  lossWeights: z.array(z.number()).nullable().default(null).describe("weight of each loss; 1 when left out"),
  beta: positive().default(0.1).describe("how close to stay to the reference model: higher is closer"),
  labelSmoothing: z.number().min(0).max(0.5).default(0).describe("share of the pairs that may be the wrong way round"),
  rpoAlpha: z.number().nullable().default(null).describe('weight of the loss "sft", added to the others'),
  ldAlpha: z
    .number()
    .min(0)
    .max(1)
    .nullable()
    .default(null)
    .describe("weight of the tokens by which an answer is longer than the other"),
  fDivergenceType: z.enum(F_DIVERGENCES).default("reverse_kl").describe("divergence between policy and reference"),
  fAlphaDivergenceCoef: z.number().default(0.5).describe("α of alpha_divergence"),
  useWeighting: z.boolean().default(false).describe("weigh pairs by the probability the model gives them (WPO)"),
  discopopTau: positive().default(0.05).describe("temperature of the discopop loss"),
});
export type DPOOptions = z.input<typeof dpoSchema>;
export type DPOValues = z.output<typeof dpoSchema>;

export const DPO_KIND = configKind("DPOTrainer", dpoSchema, { reference: true });

/** TRL's DPOConfig: TrainingArguments, with learningRate 1e-6 and loggingSteps 10 by default, and the above in one. */
export class DPOConfig extends preferenceConfig<DPOOptions, typeof dpoSchema>(DPO_KIND) {}

/** The losses with their weights. Throws OptionError for combinations that have no meaning. */
export function dpoLosses(values: DPOValues): { type: DpoLossType; weight: number }[] {
  const { lossWeights, rpoAlpha, labelSmoothing, fDivergenceType, useWeighting } = values;
  const fail = (message: string): never => {
    throw new OptionError(`DPOTrainer: ${message}`);
  };
  const types = [values.lossType].flat();
  if (lossWeights && lossWeights.length !== types.length) {
    fail(`found ${lossWeights.length} lossWeights for ${types.length} losses; give one each`);
  }
  const losses = types.map((type, i) => ({ type, weight: lossWeights?.[i] ?? 1 }));
  if (rpoAlpha !== null) losses.push({ type: "sft", weight: rpoAlpha });
  for (const { type } of losses) {
    if (type === "exo_pair" && labelSmoothing === 0) fail('loss "exo_pair" needs labelSmoothing above 0, e.g. 1e-3');
    if (type === "robust" && labelSmoothing >= 0.5) fail('loss "robust" needs labelSmoothing below 0.5');
    if (fDivergenceType !== "reverse_kl" && !DIVERGENCE_LOSSES.includes(type)) {
      fail(`loss "${type}" has no form for fDivergenceType "${fDivergenceType}"; ${DIVERGENCE_LOSSES.join(", ")} have`);
    }
    if (useWeighting && ["aot", "aot_unpaired"].includes(type)) {
      fail(`useWeighting weighs pairs, which loss "${type}" takes apart`);
    }
  }
  const smooths = ["sigmoid", "exo_pair", "robust", "aot", "aot_unpaired"];
  if (labelSmoothing > 0 && !types.some((type) => smooths.includes(type))) {
    fail(`labelSmoothing changes nothing in loss "${types.join('", "')}"; ${smooths.join(", ")} have it`);
  }
  return losses;
}
