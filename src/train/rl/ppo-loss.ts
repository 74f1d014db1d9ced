import type { Batch } from "../../data/collate.ts";
import type { ModelAdapter } from "../../models/adapter.ts";
import { binary, exp, mul, neg, scale, sub, unary } from "../../ops/elementwise.ts";
import { sum, sumRows } from "../../ops/reduce.ts";
import type { ComputeLoss, LossContext, TracedLoss } from "../loss.ts";
import type { PPOValues } from "./ppo-config.ts";
import type { UpdateStatistics } from "./ppo-statistics.ts";

export interface PPOLossSettings extends Pick<PPOValues, "cliprange" | "cliprangeValue" | "vfCoef"> {
  /** Of the log-probabilities. */
  readonly temperature: number;
  readonly policy: ModelAdapter;
  readonly value: ModelAdapter;
  /** Where microbatches' metrics go. */
  readonly statistics: UpdateStatistics;
}

/**
 * PPO's two losses (Schulman et al., 2017), each in programs of its own: the policy's over batches of `policyBatch`, the
 * value model's over those of `valueBatch`. Their gradients meet in the buffers of one update, and the memory of
 * activations is that of the larger program, not of both. Neither has dropout.
 */
export function ppoLoss(settings: PPOLossSettings): ComputeLoss {
  return (context) => (context.hasInput("returns") ? valueLoss(context, settings) : policyLoss(context, settings));
}

/** Mean over response tokens of max(−A·ρ, −A·clip(ρ)), ρ = π / π_old. */
function policyLoss(
  { traceWith, tokens, labels, input, lossScale }: LossContext,
  settings: PPOLossSettings,
): TracedLoss {
  const { cliprange, policy, temperature, statistics } = settings;
  const trace = traceWith(policy);
  const { logps, entropy } = trace.logProbs(trace.hidden(tokens), { labels, temperature });
  const ratio = exp(sub(logps, input("old")));
  const clipped = unary("atMost", unary("atLeast", ratio, 1 - cliprange), 1 + cliprange);
  const gain = neg(input("advantages"));
  const losses = binary("max", mul(gain, ratio), mul(gain, clipped));
  return {
    loss: mul(mul(sum(losses), input("invCount")), lossScale),
    arrays: { logps, entropy },
    hostLogs: (arrays, batch: Batch) => statistics.addPolicy(arrays.logps!, arrays.entropy!, batch),
  };
}

/** vfCoef·½·mean of max((V − R)², (clip(V) − R)²), V held within `cliprangeValue` of the rollout's. */
function valueLoss({ traceWith, tokens, input, lossScale }: LossContext, settings: PPOLossSettings): TracedLoss {
  const { cliprangeValue, value, vfCoef, statistics } = settings;
  const trace = traceWith(value);
  const predicted = sumRows(trace.scores(trace.hidden(tokens)));
  const change = sub(predicted, input("values"));
  const held = unary("atMost", unary("atLeast", change, -cliprangeValue), cliprangeValue);
  const error = (v: typeof predicted) => unary("square", sub(v, input("returns")));
  const clipped = binary("add", input("values"), held);
  const losses = mul(binary("max", error(predicted), error(clipped)), input("counted"));
  return {
    loss: mul(scale(mul(sum(losses), input("invCount")), 0.5 * vfCoef), lossScale),
    arrays: { predicted },
    hostLogs: (arrays, batch: Batch) => statistics.addValue(arrays.predicted!, batch),
  };
}
