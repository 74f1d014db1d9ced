import { div, logSigmoid, mul, neg, scale, sub, unary } from "../../ops/elementwise.ts";
import { mean } from "../../ops/reduce.ts";
import { segmentSum } from "../../ops/segment.ts";
import type { ComputeLoss } from "../loss.ts";
import { answersOf, distributionLogs, scorePolicy, split, windowMean } from "./answers.ts";
import { rewardLogs } from "./formulas.ts";

export interface OrpoLossOptions {
  readonly beta: number;
  readonly disableDropout: boolean;
}

/**
 * ORPO (Hong et al. 2024): next-token loss of the chosen sequences, prompt and all (as TRL has it), and −β·log σ of the
 * log odds ratio of the answers' mean probabilities. Needs batches with `wholeChosen`.
 */
export function orpoLoss({ beta, disableDropout }: OrpoLossOptions): ComputeLoss {
  return (ctx) => {
    const scores = scorePolicy(ctx, answersOf(ctx), disableDropout);
    const logps = split(ctx, div(scores.logps, ctx.input("targets")));
    const odds = sub(sub(logps.chosen, logps.rejected), sub(log1mexp(logps.chosen), log1mexp(logps.rejected)));
    const ratio = logSigmoid(odds);
    const whole = segmentSum(scores.perToken.logps, ctx.input("wholeSegments"), 1);
    const nll = mul(neg(whole), mul(ctx.input("tokenScale"), ctx.lossScale));
    const rewards = Object.entries(rewardLogs(scale(logps.chosen, beta), scale(logps.rejected, beta)));
    const { entropy: _, mean_token_accuracy: __, ...logits } = distributionLogs(ctx, scores);
    return {
      loss: sub(nll, scale(windowMean(ctx, ratio), beta)),
      logs: {
        ...Object.fromEntries(rewards.map(([name, value]) => [name, mean(value)])),
        "logps/chosen": mean(logps.chosen),
        "logps/rejected": mean(logps.rejected),
        ...logits,
        nll_loss: div(neg(whole), ctx.input("wholeCount")),
        log_odds_ratio: mean(ratio),
        log_odds_chosen: mean(odds),
      },
    };
  };
}

/** log(1 − exp(x)) of x below 0. */
const log1mexp = (x: Parameters<typeof neg>[0]) => unary("log1mexp", x);
