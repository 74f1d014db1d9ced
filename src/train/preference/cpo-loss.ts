import type { Value } from "../../graph/graph.ts";
import { add } from "../../ops/add.ts";
import { div, exp, mul, neg, relu, scale, sub } from "../../ops/elementwise.ts";
import { mean } from "../../ops/reduce.ts";
import type { ComputeLoss } from "../loss.ts";
import { answersOf, distributionLogs, scorePolicy, split, tokenMean, windowMean } from "./answers.ts";
import { oneMinus, rewardLogs, shift, smoothedLogistic, squaredError } from "./formulas.ts";

interface CpoTerms {
  /** β times the difference of rewards without β, f32[n]. */
  readonly difference: Value;
  readonly beta: number;
  readonly labelSmoothing: number;
  readonly simpoGamma: number;
}

/** Loss of each pair, f32[n]. */
export const CPO_LOSSES = {
  /** CPO, Xu et al. 2024 (eq. 3). */
  sigmoid: (t) => smoothedLogistic(scale(t.difference, t.beta), t.labelSmoothing),
  hinge: (t) => relu(oneMinus(scale(t.difference, t.beta))),
  /** IPO, of mean log-probabilities. */
  ipo: (t) => squaredError(t.difference, 1 / (2 * t.beta)),
  /** SimPO, Meng et al. 2024: mean log-probabilities, at least γ apart. */
  simpo: (t) => smoothedLogistic(shift(scale(t.difference, t.beta), -t.simpoGamma), t.labelSmoothing),
} satisfies Record<string, (terms: CpoTerms) => Value>;

export type CpoLossType = keyof typeof CPO_LOSSES;
export const CPO_LOSS_TYPES = Object.keys(CPO_LOSSES) as CpoLossType[];

/** Losses of mean rather than summed log-probabilities. */
const LENGTH_NORMALISED: readonly CpoLossType[] = ["ipo", "simpo"];

export interface CpoLossOptions {
  readonly lossType: CpoLossType;
  readonly beta: number;
  readonly labelSmoothing: number;
  readonly cpoAlpha: number;
  readonly simpoGamma: number;
  /** AlphaPO's α. */
  readonly alpha: number;
  readonly disableDropout: boolean;
}

/** Preferences without a reference model: the loss of a pair, and α times the next-token loss of chosen answers. */
export function cpoLoss(options: CpoLossOptions): ComputeLoss {
  const { lossType, beta, cpoAlpha, alpha } = options;
  return (ctx) => {
    const scores = scorePolicy(ctx, answersOf(ctx), options.disableDropout);
    const targets = ctx.input("targets");
    const summed = split(ctx, scores.logps);
    const means = split(ctx, div(scores.logps, targets));
    const logps = LENGTH_NORMALISED.includes(lossType) ? means : summed;
    const chosen = alphaReward(logps.chosen, alpha);
    const rejected = alphaReward(logps.rejected, alpha);
    const perPair = CPO_LOSSES[lossType]({ ...options, difference: sub(chosen, rejected) });
    const plain = mul(neg(summed.chosen), ctx.input("tokenScale"));
    const rewards = Object.entries(rewardLogs(scale(chosen, beta), scale(rejected, beta)));
    const { entropy: _, mean_token_accuracy: __, ...logits } = distributionLogs(ctx, scores);
    const preference = windowMean(ctx, perPair);
    return {
      loss: cpoAlpha === 0 ? preference : add(preference, scale(windowMean(ctx, plain), cpoAlpha)),
      logs: {
        ...Object.fromEntries(rewards.map(([name, value]) => [name, mean(value)])),
        "logps/chosen": mean(logps.chosen),
        "logps/rejected": mean(logps.rejected),
        ...logits,
        nll_loss: neg(tokenMean(summed.chosen, split(ctx, targets).chosen)),
      },
    };
  };
}

/** AlphaPO (Gupta et al. 2025): (1 − p^−α)/α, which is log p where α is 0. */
function alphaReward(logps: Value, alpha: number): Value {
  return alpha === 0 ? logps : scale(oneMinus(exp(scale(logps, -alpha))), 1 / alpha);
}
