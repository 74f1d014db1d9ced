import type { Value } from "../../graph/graph.ts";
import { add } from "../../ops/add.ts";
import { div, exp, logSigmoid, mul, neg, relu, scale, sigmoid, sub, unary } from "../../ops/elementwise.ts";
import { oneMinus, shift, smoothedLogistic, softMinus, squaredError } from "./formulas.ts";

/** What DPO's losses are functions of, f32[n] each: one number a pair. */
export interface DpoTerms {
  /** log π − log π_ref of each answer. */
  readonly chosenRatios: Value;
  readonly rejectedRatios: Value;
  /** The same under the f-divergence chosen; of reverse KL, the ratios themselves. */
  readonly chosenScores: Value;
  readonly rejectedScores: Value;
  /** Tokens of each answer. */
  readonly chosenLengths: Value;
  readonly rejectedLengths: Value;
  /** log π(chosen) − log π(rejected), and of the reference. */
  readonly policyRatios: Value;
  readonly referenceRatios: Value;
  readonly beta: number;
  readonly labelSmoothing: number;
  readonly discopopTau: number;
  /** In rising order over the batch. */
  readonly sorted: (x: Value) => Value;
}

/** Loss of each pair, f32[n]; with the paper, or where it is from. β·Δ is the reward difference. */
export const DPO_LOSSES = {
  /** Rafailov et al. 2023; with label smoothing, Mitchell's conservative DPO. */
  sigmoid: (t) => smoothedLogistic(margin(t), t.labelSmoothing),
  /** SLiC-HF, Zhao et al. 2023. */
  hinge: (t) => relu(oneMinus(margin(t))),
  /** IPO, Azar et al. 2023 (eq. 17), of scores a token. */
  ipo: (t) => squaredError(meanDelta(t), 1 / (2 * t.beta)),
  /** EXO, Ji et al. 2024 (eq. 16), for two answers. */
  exo_pair(t) {
    const x = margin(t);
    const part = (side: Value, log: number): Value => mul(sigmoid(side), shift(logSigmoid(side), -log));
    return add(part(x, Math.log1p(-t.labelSmoothing)), part(neg(x), Math.log(t.labelSmoothing)));
  },
  /** NCA, Chen et al. 2024. */
  nca_pair(t) {
    const [chosen, rejected] = rewards(t);
    return add(softMinus(chosen), scale(add(softMinus(neg(chosen)), softMinus(neg(rejected))), 0.5));
  },
  /** Robust DPO, Chowdhury et al. 2024. */
  robust(t) {
    const epsilon = t.labelSmoothing;
    const clean = scale(softMinus(margin(t)), 1 - epsilon);
    return scale(sub(clean, scale(softMinus(neg(margin(t))), epsilon)), 1 / (1 - 2 * epsilon));
  },
  /** BCO, Jung et al. 2024, for pairs. */
  bco_pair(t) {
    const [chosen, rejected] = rewards(t);
    return add(softMinus(chosen), softMinus(neg(rejected)));
  },
  /** SPPO, Wu et al. 2024, the chosen answer winning for certain. */
  sppo_hard: (t) => add(squaredError(t.chosenRatios, 0.5 / t.beta), squaredError(t.rejectedRatios, -0.5 / t.beta)),
  /** AOT, Melnyk et al. 2024: distributions over the batch rather than pairs. */
  aot(t) {
    const delta = sub(t.sorted(t.policyRatios), t.sorted(t.referenceRatios));
    return smoothedLogistic(scale(delta, t.beta), t.labelSmoothing);
  },
  aot_unpaired(t) {
    const delta = sub(t.sorted(t.chosenRatios), t.sorted(t.rejectedRatios));
    return smoothedLogistic(scale(delta, t.beta), t.labelSmoothing);
  },
  /** APO, D'Oosterlinck et al. 2024 (eq. 7): the chosen answers are better than the model. */
  apo_zero(t) {
    const [chosen, rejected] = rewards(t);
    return add(oneMinus(sigmoid(chosen)), sigmoid(rejected));
  },
  /** The same (eq. 8): they are worse than the model. */
  apo_down(t) {
    const [chosen, rejected] = rewards(t);
    return add(sigmoid(chosen), oneMinus(sigmoid(sub(chosen, rejected))));
  },
  /** DiscoPOP, Lu et al. 2024 (eq. 5). */
  discopop(t) {
    const x = margin(t);
    const share = sigmoid(scale(x, 1 / t.discopopTau));
    return add(mul(softMinus(x), oneMinus(share)), mul(exp(neg(x)), share));
  },
  /** DPO of scores a token. */
  sigmoid_norm: (t) => softMinus(scale(meanDelta(t), t.beta)),
} satisfies Record<string, (terms: DpoTerms) => Value>;

export type PairLoss = keyof typeof DPO_LOSSES;

/** "sft": next-token loss of the chosen answers, to go with others. */
export type DpoLossType = PairLoss | "sft";

export const DPO_LOSS_TYPES = ["sft", ...(Object.keys(DPO_LOSSES) as PairLoss[])] as const;

/** Losses of the scores' difference, in which what an f-divergence leaves of the partition function cancels. */
export const DIVERGENCE_LOSSES: readonly DpoLossType[] = [
  "sigmoid",
  "sigmoid_norm",
  "hinge",
  "ipo",
  "exo_pair",
  "robust",
  "discopop",
  "sft",
];

export const F_DIVERGENCES = ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] as const;
export type FDivergence = (typeof F_DIVERGENCES)[number];

/** Beyond it exp is no longer a float. */
const LARGEST_EXPONENT = 80;

/** f′(π/π_ref) of log ratios (f-DPO, Wang et al. 2023), up to constants that a difference does not have. */
export function divergenceScores(ratios: Value, kind: FDivergence, alpha: number): Value {
  switch (kind) {
    case "reverse_kl":
      return ratios;
    case "forward_kl":
      return oneMinus(exp(neg(ratios)));
    case "js_divergence":
      return shift(logSigmoid(ratios), Math.LN2);
    case "alpha_divergence": {
      if (Math.abs(alpha - 1) < 1e-6) return ratios;
      const power = unary("atMost", scale(ratios, alpha - 1), LARGEST_EXPONENT);
      return scale(shift(exp(power), -1), 1 / (alpha - 1));
    }
  }
}

/** β·Δ of each pair. */
const margin = ({ chosenScores, rejectedScores, beta }: DpoTerms): Value =>
  scale(sub(chosenScores, rejectedScores), beta);

/** Difference of the scores a token. */
const meanDelta = (t: DpoTerms): Value =>
  sub(div(t.chosenScores, t.chosenLengths), div(t.rejectedScores, t.rejectedLengths));

/** β·(log π − log π_ref) of chosen and rejected. */
const rewards = ({ chosenRatios, rejectedRatios, beta }: DpoTerms): [Value, Value] => [
  scale(chosenRatios, beta),
  scale(rejectedRatios, beta),
];
