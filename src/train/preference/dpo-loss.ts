import type { Value } from "../../graph/graph.ts";
import type { DecoderTrace } from "../../models/decoder.ts";
import { add } from "../../ops/add.ts";
import { detach } from "../../ops/detach.ts";
import { div, exp, mul, neg, scale, sub } from "../../ops/elementwise.ts";
import { mean } from "../../ops/reduce.ts";
import { segmentSum } from "../../ops/segment.ts";
import type { ComputeLoss, LossContext } from "../loss.ts";
import {
  type AnswerInputs,
  answersOf,
  distributionLogs,
  type Policy,
  type Scores,
  score,
  scorePolicy,
  split,
  windowMean,
} from "./answers.ts";
import { DPO_LOSSES, type DpoLossType, divergenceScores, type FDivergence } from "./dpo-losses.ts";
import { rewardLogs, sorted } from "./formulas.ts";
import { type Reference, referenceScores } from "./reference.ts";

export interface DpoLossOptions {
  readonly losses: readonly { readonly type: DpoLossType; readonly weight: number }[];
  readonly reference: Reference;
  readonly beta: number;
  readonly labelSmoothing: number;
  readonly fDivergenceType: FDivergence;
  readonly fAlphaDivergenceCoef: number;
  readonly ldAlpha: number | null;
  readonly discopopTau: number;
  readonly useWeighting: boolean;
  readonly disableDropout: boolean;
}

/** DPO over a batch of `collatePairs`: Σ over the losses of their weight times their mean over the window's pairs. */
export function dpoLoss(options: DpoLossOptions): ComputeLoss {
  const { beta, fDivergenceType, fAlphaDivergenceCoef, useWeighting } = options;
  return (ctx) => {
    const answers = answersOf(ctx);
    const reference = split(
      ctx,
      referenceScores(ctx, options.reference, (trace) => summed(ctx, answers, score(trace, answers), options)),
    );
    const scores = scorePolicy(ctx, answers, options.disableDropout);
    const policy = split(ctx, summed(ctx, answers, scores, options));
    const chosenRatios = sub(policy.chosen, reference.chosen);
    const rejectedRatios = sub(policy.rejected, reference.rejected);
    const lengths = split(ctx, ctx.input("lengths"));
    const terms = {
      ...options,
      chosenRatios,
      rejectedRatios,
      chosenScores: divergenceScores(chosenRatios, fDivergenceType, fAlphaDivergenceCoef),
      rejectedScores: divergenceScores(rejectedRatios, fDivergenceType, fAlphaDivergenceCoef),
      chosenLengths: lengths.chosen,
      rejectedLengths: lengths.rejected,
      policyRatios: sub(policy.chosen, policy.rejected),
      referenceRatios: sub(reference.chosen, reference.rejected),
      sorted: (x: Value) => sorted(ctx, x),
    };
    const weights = useWeighting ? pairWeights(ctx, answers, scores) : null;
    const losses = options.losses.map(({ type, weight }) => {
      // The mean over the window's tokens, so that how it is cut into microbatches does not matter.
      const perPair =
        type === "sft" ? mul(neg(split(ctx, scores.logps).chosen), ctx.input("tokenScale")) : DPO_LOSSES[type](terms);
      return scale(windowMean(ctx, weights ? mul(perPair, weights) : perPair), weight);
    });
    const perPair = {
      ...rewardLogs(scale(chosenRatios, beta), scale(rejectedRatios, beta)),
      "logps/chosen": policy.chosen,
      "logps/rejected": policy.rejected,
    };
    const means = Object.entries(perPair).map(([name, value]) => [name, mean(value)]);
    return {
      loss: losses.reduce((sum, one) => add(sum, one)),
      logs: { ...distributionLogs(ctx, scores), ...Object.fromEntries(means) },
    };
  };
}

/** What the reference's numbers of a batch are, f32[2n], for computing them beforehand. */
export function dpoReference(ctx: LossContext, trace: DecoderTrace, options: Pick<DpoLossOptions, "ldAlpha">): Value {
  const answers = answersOf(ctx);
  return summed(ctx, answers, score(trace, answers), options);
}

/** Σ log p of each answer, f32[2n]; under LD-DPO the tokens beyond the shorter answer's length weigh less. */
function summed(
  ctx: LossContext,
  { segments, count }: AnswerInputs,
  { perToken, logps }: Scores,
  { ldAlpha }: Pick<DpoLossOptions, "ldAlpha">,
): Value {
  return ldAlpha === null ? logps : segmentSum(mul(perToken.logps, ctx.input("tokenWeights")), segments, count);
}

/**
 * WPO (Zhou et al. 2024, eq. 2): the product of both answers' probabilities a token, each token's aligned by Σ p² of its
 * distribution. log Σ p² = 2·log p − log p at temperature ½, whatever the token.
 */
function pairWeights(ctx: LossContext, answers: AnswerInputs, { trace, hidden, perToken }: Policy): Value {
  const sharper = trace.logProbs(detach(hidden), { labels: answers.labels, temperature: 0.5 }).logps;
  const aligned = sub(detach(sharper), detach(perToken.logps));
  const means = div(segmentSum(aligned, answers.segments, answers.count), ctx.input("targets"));
  const weights = split(ctx, exp(means));
  return mul(weights.chosen, weights.rejected);
}
