import type { Value } from "../../graph/graph.ts";
import type { DecoderTrace } from "../../models/decoder.ts";
import { detach } from "../../ops/detach.ts";
import { binary, mul, relu, scale, sigmoid, sub } from "../../ops/elementwise.ts";
import { mean } from "../../ops/reduce.ts";
import { segmentSum } from "../../ops/segment.ts";
import type { ComputeLoss, LossContext } from "../loss.ts";
import { type AnswerInputs, answersOf, score, scorePolicy, tokenMean, windowMean } from "./answers.ts";
import { oneMinus } from "./formulas.ts";
import { type Reference, referenceScores } from "./reference.ts";

export const KTO_LOSS_TYPES = ["kto", "apo_zero_unpaired"] as const;
export type KtoLossType = (typeof KTO_LOSS_TYPES)[number];

export interface KtoLossOptions {
  readonly lossType: KtoLossType;
  readonly beta: number;
  readonly reference: Reference;
  readonly disableDropout: boolean;
}

/** Before the names of numbers that are sums a sequence, of which a mean over wanted or unwanted answers is made. */
export const SHARE_PREFIX = "share/";

/**
 * Labelled answers (batches of `collateUnpaired`). kto (Ethayarajh et al. 2024, eq. 7): 1 − σ(±β(log ratio − KL)), KL the
 * mean log ratio of mismatched answers, at least 0 and a constant. apo_zero_unpaired (D'Oosterlinck et al. 2024, eq. 7):
 * the same without KL. Each answer has the weight of its kind.
 */
export function ktoLoss({ lossType, beta, reference, disableDropout }: KtoLossOptions): ComputeLoss {
  return (ctx) => {
    const answers = answersOf(ctx);
    const kl = lossType === "kto" ? klEstimate(ctx, reference) : null;
    const base = referenceScores(ctx, reference, (trace) => score(trace, answers).logps);
    const scores = scorePolicy(ctx, answers, disableDropout);
    const ratios = sub(scores.logps, base);
    const signs = ctx.input("signs");
    const gains = mul(kl ? sub(ratios, kl) : ratios, signs);
    const losses = mul(oneMinus(sigmoid(scale(gains, beta))), ctx.input("weights"));
    const { meanLogits, entropy } = scores.perToken;
    const targets = ctx.input("targets");
    const shares = {
      chosen: kindLogs(binary("greater", signs, scale(signs, 0)), targets),
      rejected: kindLogs(binary("greater", scale(signs, 0), signs), targets),
    };
    const logits = segmentSum(meanLogits, answers.segments, answers.count);
    const logs: [string, Value][] = Object.entries(shares).flatMap(([kind, { mask, counts, tokens }]) => [
      [`rewards/${kind}`, mean(mul(scale(ratios, beta), mask))],
      [`logps/${kind}`, mean(mul(scores.logps, mask))],
      [`logits/${kind}`, mean(mul(logits, mask))],
      [`${SHARE_PREFIX}${kind}`, counts],
      [`${SHARE_PREFIX}${kind}_tokens`, tokens],
    ]);
    return {
      loss: windowMean(ctx, losses),
      logs: {
        kl: kl ?? scale(ctx.lossScale, 0),
        entropy: tokenMean(segmentSum(entropy, answers.segments, answers.count), targets),
        ...Object.fromEntries(logs),
      },
    };
  };
}

/** Reference numbers of a batch, and of its mismatched answers, f32[n], for computing them beforehand. */
export function ktoReference(ctx: LossContext, trace: DecoderTrace, lossType: KtoLossType): Record<string, Value> {
  const own = { reference: score(trace, answersOf(ctx)).logps };
  return lossType === "kto" ? { ...own, "kl.reference": score(trace, mismatchedAnswers(ctx)).logps } : own;
}

/** max(mean over mismatched answers of log π − log π_ref, 0), [1], without a derivative. */
function klEstimate(ctx: LossContext, reference: Reference): Value {
  const answers = mismatchedAnswers(ctx);
  const base = referenceScores(ctx, reference, (trace) => score(trace, answers).logps, "kl.reference");
  const policy = score(ctx.traceWith(ctx.trace.model.adapter), answers).logps;
  return relu(mean(sub(detach(policy), base)));
}

/** The batch's second stream: each prompt with another one's answer. */
function mismatchedAnswers(ctx: LossContext): AnswerInputs {
  const input = (name: string): Value => ctx.input(`kl.${name}`);
  const tokens = {
    ids: input("ids"),
    positions: input("positions"),
    seqStart: input("seqStart"),
    seqEnd: input("seqEnd"),
  };
  const count = ctx.input("targets").shape[0]!;
  return { tokens, labels: input("labels"), segments: input("segments"), count };
}

/** Which answers are of a kind, f32[n]; the share of them, and their tokens for each answer of the batch, [1] each. */
function kindLogs(mask: Value, targets: Value): { mask: Value; counts: Value; tokens: Value } {
  return { mask, counts: mean(mask), tokens: mean(mul(targets, mask)) };
}
