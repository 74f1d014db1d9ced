import type { Value } from "../../graph/graph.ts";
import type { DecoderTrace, TokenInputs } from "../../models/decoder.ts";
import { div, mul } from "../../ops/elementwise.ts";
import type { TokenLogProbs } from "../../ops/log-probs.ts";
import { sum } from "../../ops/reduce.ts";
import { segmentSum, takeFrom } from "../../ops/segment.ts";
import type { LossContext } from "../loss.ts";

/** What a batch of answers says about itself: see `collatePairs` and `collateUnpaired`. */
export interface AnswerInputs {
  readonly tokens: TokenInputs;
  readonly labels: Value;
  /** i32[T]: the sequence whose answer a token predicts, or −1. */
  readonly segments: Value;
  /** How many sequences there are. */
  readonly count: number;
}

/** The answers of a batch's own stream. */
export function answersOf(ctx: LossContext): AnswerInputs {
  const { tokens, labels } = ctx;
  return { tokens, labels, segments: ctx.input("segments"), count: ctx.input("targets").shape[0]! };
}

/** Numbers of each token under a model, and their sums over each answer. */
export interface Scores {
  /** Hidden states after the last norm, [T, d]. */
  readonly hidden: Value;
  readonly perToken: TokenLogProbs;
  /** Σ log p over each answer, f32[count]. */
  readonly logps: Value;
}

/** Scores a model's answers. */
export function score(trace: DecoderTrace, answers: AnswerInputs, hidden = trace.hidden(answers.tokens)): Scores {
  const { labels, segments, count } = answers;
  const perToken = trace.logProbs(hidden, { labels });
  return { hidden, perToken, logps: segmentSum(perToken.logps, segments, count) };
}

/** The model in training, traced as such. */
export interface Policy extends Scores {
  readonly trace: DecoderTrace;
}

/**
 * The policy: the model in training, without dropout if wanted. The reference is to be traced before, so that only its
 * few numbers stay in memory.
 */
export function scorePolicy(ctx: LossContext, answers: AnswerInputs, disableDropout: boolean): Policy {
  if (!disableDropout) return { trace: ctx.trace, ...score(ctx.trace, answers, ctx.hidden()) };
  const trace = ctx.traceWith(ctx.trace.model.adapter);
  return { trace, ...score(trace, answers) };
}

/** Of a number a sequence, f32[2n], those of the chosen and of the rejected ones, f32[n] each. */
export function split(ctx: LossContext, perSequence: Value): { chosen: Value; rejected: Value } {
  const take = (name: string): Value => takeFrom(perSequence, ctx.input(name));
  return { chosen: take("chosen"), rejected: take("rejected") };
}

/** Mean over tokens of sums and counts a sequence, [1]. */
export const tokenMean = (sums: Value, counts: Value): Value => div(sum(sums), sum(counts));

/** What every trainer logs of the model's distributions over the answers' tokens: TRL's names and definitions. */
export function distributionLogs(ctx: LossContext, { perToken }: Scores): Record<string, Value> {
  const { segments, count } = answersOf(ctx);
  const targets = ctx.input("targets");
  const counts = split(ctx, targets);
  const meanLogits = split(ctx, segmentSum(perToken.meanLogits, segments, count));
  const correct = split(ctx, segmentSum(perToken.correct, segments, count));
  return {
    entropy: tokenMean(segmentSum(perToken.entropy, segments, count), targets),
    "logits/chosen": tokenMean(meanLogits.chosen, counts.chosen),
    "logits/rejected": tokenMean(meanLogits.rejected, counts.rejected),
    mean_token_accuracy: tokenMean(correct.chosen, counts.chosen),
  };
}

/** A number a pair as the batch's share of the window's mean, [1]. */
export const windowMean = (ctx: LossContext, perPair: Value): Value => mul(sum(perPair), ctx.lossScale);
