import type { Batch } from "../../data/collate.ts";
import type { Value } from "../../graph/graph.ts";
import { add } from "../../ops/add.ts";
import { cast } from "../../ops/cast.ts";
import { detach } from "../../ops/detach.ts";
import { binary, exp, mul, neg, relu, scale, sigmoid, sub, unary } from "../../ops/elementwise.ts";
import { sum, sumRows } from "../../ops/reduce.ts";
import { segmentSum, takeFrom } from "../../ops/segment.ts";
import { logSoftmax } from "../../ops/softmax.ts";
import type { ComputeLoss, LossContext } from "../loss.ts";
import { hasEntropyBonus } from "./entropy-control.ts";
import type { GRPOValues } from "./grpo-config.ts";
import { grpoMetrics } from "./grpo-metrics.ts";

/** The settings that the loss depends on. `usesOld`: batches have the log-probabilities of the policy that sampled. */
export type GRPOLossSettings = {
  readonly usesOld: boolean;
  /** Gets the entropies f32[T] of a batch. */
  readonly onEntropy?: ((entropy: Float32Array, batch: Batch) => void) | undefined;
} & Pick<
  GRPOValues,
  | "lossType"
  | "importanceSamplingLevel"
  | "temperature"
  | "beta"
  | "epsilon"
  | "epsilonHigh"
  | "delta"
  | "maxCompletionLength"
  | "useBiasCorrectionKl"
  | "offPolicyMaskThreshold"
  | "topEntropyQuantile"
  | "entropyCoef"
  | "useAdaptiveEntropy"
  | "sapoTemperaturePos"
  | "sapoTemperatureNeg"
  | "vespoKPos"
  | "vespoLambdaPos"
  | "vespoKNeg"
  | "vespoLambdaNeg"
  | "disableDropout"
>;

/** What the ways to score a token work from: all f32[T]. */
interface Tokens {
  /** log π(token), and log π(token) − log π_old(token). */
  readonly logps: Value;
  readonly logRatio: Value;
  /** The importance ratio, of the token or of its whole sequence. */
  readonly ratio: Value;
  readonly advantages: Value;
  /** Sums a sequence, spread to its tokens. */
  readonly perSequence: (x: Value) => Value;
}

/**
 * GRPO's loss and its kin over a batch of `sampleBatch`, as TRL 1.16 defines them: clipped ratios (grpo, bnpo, dr_grpo,
 * dapo, luspo; Shao et al., 2024, and DAPO's asymmetric bounds), clipped weights (cispo), soft gates (sapo), sequence-level
 * gamma weights (vespo); plus β times the KL divergence from the reference, e^d − d − 1 with d = ref − log π. The averages
 * over tokens differ: see `reduceTokens`. With an entropy bonus, less `entropyCoef` (an input of the batch) times the mean
 * entropy of the tokens trained on; its gradient takes the microbatch's whole logits.
 */
export function grpoLoss(settings: GRPOLossSettings): ComputeLoss {
  return (context) => {
    const { labels, input, lossScale } = context;
    const { trace, hidden } = policyOf(context, settings);
    const { logps, entropy } = trace.logProbs(hidden, { labels, temperature: settings.temperature });
    const sequence = input("sequence");
    const advantages = input("advantages");
    const count = advantages.shape[0]!;
    const spread = (x: Value): Value => takeFrom(x, sequence);
    const perSequence = (x: Value): Value => spread(segmentSum(x, sequence, count));
    const meanPerSequence = (x: Value): Value => spread(mul(segmentSum(x, sequence, count), input("invLength")));
    const old = settings.usesOld ? input("old") : detach(logps);
    const logRatio = sub(logps, old);
    const ratio = exp(settings.importanceSamplingLevel === "token" ? logRatio : meanPerSequence(logRatio));
    const tokens: Tokens = { logps, logRatio, ratio, advantages: spread(advantages), perSequence };
    const policy = policyLoss(tokens, settings);
    let loss = policy.loss;
    const { offPolicyMaskThreshold: threshold } = settings;
    if (threshold !== null) {
      const drift = detach(meanPerSequence(neg(logRatio)));
      const drop = mul(positive(unary("shift", drift, -threshold)), positive(neg(tokens.advantages)));
      loss = sub(loss, mul(loss, drop));
    }
    if (settings.topEntropyQuantile < 1) loss = mul(loss, input("keep"));
    const arrays: Record<string, Value> = { entropy, ...policy.arrays };
    if (settings.beta !== 0) {
      const d = sub(input("ref"), logps);
      const divergence = unary("shift", sub(exp(d), d), -1);
      arrays.kl = settings.useBiasCorrectionKl ? mul(divergence, ratio) : divergence;
      loss = add(loss, scale(arrays.kl, settings.beta));
    }
    const hostLogs = (values: Readonly<Record<string, Float32Array>>, batch: Batch): Record<string, number> => {
      settings.onEntropy?.(values.entropy!, batch);
      return grpoMetrics(values, batch, settings);
    };
    const reduced = reduceTokens(loss, context, settings, count);
    if (!hasEntropyBonus(settings)) return { loss: mul(reduced, lossScale), arrays, hostLogs };
    const one = unary("shift", scale(advantages, 0), 1);
    const mask = settings.topEntropyQuantile < 1 ? input("keep") : spread(one);
    const logProbs = logSoftmax(cast(trace.logits(hidden), "f32"), settings.temperature);
    const entropies = neg(sumRows(mul(exp(logProbs), logProbs)));
    const mean = mul(sum(mul(entropies, mask)), unary("reciprocal", unary("atLeast", sum(mask), 1)));
    const withBonus = sub(reduced, mul(mean, input("entropyCoef")));
    // TRL's, which for these losses is the microbatch's part of the window's.
    const isPart = ["dapo", "cispo", "vespo"].includes(settings.lossType);
    const logs = { policy_loss: isPart ? mul(reduced, lossScale) : reduced };
    return { loss: mul(withBonus, lossScale), logs, arrays, hostLogs };
  };
}

/** The policy as training computes it. */
function policyOf({ trace, traceWith, hidden, tokens }: LossContext, { disableDropout }: GRPOLossSettings) {
  if (!disableDropout) return { trace, hidden: hidden() };
  const still = traceWith(trace.model.adapter);
  return { trace: still, hidden: still.hidden(tokens) };
}

/** Each token's loss, and what the metrics are made from. */
function policyLoss(tokens: Tokens, settings: GRPOLossSettings): { loss: Value; arrays: Record<string, Value> } {
  const { advantages, logps, ratio } = tokens;
  const { epsilon, lossType, delta } = settings;
  const epsilonHigh = settings.epsilonHigh ?? epsilon;
  switch (lossType) {
    case "cispo": {
      const weight = detach(unary("atMost", ratio, epsilonHigh));
      return { loss: neg(mul(mul(weight, advantages), logps)), arrays: { ratio } };
    }
    case "sapo": {
      const gate = (t: number): Value => scale(sigmoid(scale(unary("shift", ratio, -1), t)), 4 / t);
      const gain = mul(gate(settings.sapoTemperaturePos), relu(advantages));
      const pain = mul(gate(settings.sapoTemperatureNeg), relu(neg(advantages)));
      return { loss: sub(pain, gain), arrays: {} };
    }
    case "vespo":
      return vespo(tokens, settings);
    default: {
      const clipped = unary("atMost", unary("atLeast", ratio, 1 - epsilon), 1 + epsilonHigh);
      const bounded = delta === null ? ratio : unary("atMost", ratio, delta);
      const worse = binary("min", mul(bounded, advantages), mul(clipped, advantages));
      return { loss: neg(worse), arrays: { ratio: bounded } };
    }
  }
}

/** TRL's bounds of vespo's sequence-level log-ratio. */
const LOG_SMALLEST = Math.log(1e-8);
const LOG_LARGEST = 20;

/** −φ(w)·A·log π with φ(w) = e^(λ + k·log w − λw), w the sequence's ratio, not differentiated (VESPO). */
function vespo({ advantages, logps, logRatio, perSequence }: Tokens, settings: GRPOLossSettings) {
  const clamp = (x: Value, low: number): Value => unary("atMost", unary("atLeast", x, low), LOG_LARGEST);
  const logWeight = detach(clamp(perSequence(clamp(logRatio, -LOG_LARGEST)), LOG_SMALLEST));
  const gamma = (k: number, lambda: number): Value => {
    const l = Math.max(lambda, 1e-4);
    return exp(unary("shift", sub(scale(logWeight, k), scale(exp(logWeight), l)), l));
  };
  const phiPos = gamma(settings.vespoKPos, settings.vespoLambdaPos);
  const phiNeg = gamma(settings.vespoKNeg, settings.vespoLambdaNeg);
  const weighted = sub(mul(phiPos, relu(advantages)), mul(phiNeg, relu(neg(advantages))));
  return { loss: neg(mul(weighted, logps)), arrays: { phiPos, phiNeg } };
}

/** Tokens' losses to one number: sums divided by what the loss type divides by. */
function reduceTokens(
  loss: Value,
  { input }: LossContext,
  { lossType, maxCompletionLength }: GRPOLossSettings,
  sequences: number,
): Value {
  switch (lossType) {
    case "grpo":
    case "sapo": {
      const means = mul(segmentSum(loss, input("sequence"), sequences), input("invLength"));
      return scale(sum(means), 1 / sequences);
    }
    case "luspo":
      return scale(sum(loss), 1 / sequences);
    case "bnpo":
      return mul(sum(loss), input("invTokens"));
    case "dr_grpo":
      return scale(sum(loss), 1 / (sequences * maxCompletionLength));
    default:
      return mul(sum(loss), input("invWindow"));
  }
}

/** 1 where x > 0, else 0. */
const positive = (x: Value): Value => relu(unary("sign", x));
