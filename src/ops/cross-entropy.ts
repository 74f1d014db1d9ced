import { apply1, graphOf, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { numel, type TensorSpec } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { expectSpec, matrix, required, traffic } from "./check.ts";
import { div, isConstant, mul } from "./elementwise.ts";
import {
  applyHeadGrads,
  checkHead,
  type HeadGrads,
  headCost,
  headGradCost,
  headGradPlaces,
  headGradSpecs,
} from "./head.ts";

/** Loss and metrics, which come before gradients. */
const LOSS_OUTPUTS = 2;

type LossAttrs = { softcap: number; labelSmoothing: number };

/** What the loss ops report beside the loss, in this order, all unscaled sums over trained tokens. */
export const LOSS_METRICS = ["crossEntropy", "correct", "entropy", "targets"] as const;

/**
 * loss = lossScale·Σ_t CE(softcap(h[t]·Wᵀ + bias), labels[t]) over tokens whose label is not −100, with the logits made,
 * used and forgotten a chunk of trained tokens at a time: the whole [T, V] never exists.
 * Inputs: h [T, d], W [V, d] in any weight type, bias? [V], labels i32[T], lossScale f32[1].
 * Outputs: loss [1], metrics [4] (LOSS_METRICS).
 */
export const linearCrossEntropyOp: Op<LossAttrs> = {
  name: "linear_cross_entropy",
  infer: (inputs) => {
    checkLossHead("linear_cross_entropy", inputs);
    return lossSpecs();
  },
  vjp(ctx) {
    const { node } = ctx;
    const [h, w, bias, labels, lossScale] = node.inputs as [Value, Value, Value | null, Value, Value];
    const seed = ctx.grad(0)!;
    const plain = isConstant(seed, 1);
    // An input as the seed is a loss scaler's positive scale: the loss can be had back from the scaled one.
    const scaler = seed.kind === "input";
    const scaled = plain ? lossScale : mul(lossScale, seed);
    const grads = applyHeadGrads(ctx, linearCrossEntropyGradOp, [h, w, bias, labels, scaled], LOSS_OUTPUTS);
    if (plain || scaler) {
      ctx.supersede(node.outputs[0]!, plain ? grads[0]! : div(grads[0]!, seed));
      ctx.supersede(node.outputs[1]!, grads[1]!);
    }
  },
  cost: (node) => headCost(node.inputs[0]!, node.inputs[1]!, 1),
};

/**
 * The same loss and metrics with their gradients: dh [T, d] (zero for untrained tokens), then dW [V, d] when `weightGrad`
 * and dBias [V] when `biasGrad`. Inputs: those of the loss, then accW?, accBias?.
 */
export const linearCrossEntropyGradOp: Op<LossAttrs & HeadGrads> = {
  name: "linear_cross_entropy_grad",
  infer(inputs, attrs) {
    const head = checkLossHead("linear_cross_entropy_grad", inputs);
    return [...lossSpecs(), ...headGradSpecs("linear_cross_entropy", head, attrs)];
  },
  cost: headGradCost,
  inPlace: (node) => headGradPlaces(node, LOSS_OUTPUTS),
};

/** Loss over given logits [T, V]; for heads that are more than one product. Outputs: loss [1], metrics [4], lse [T]. */
export const crossEntropyOp: Op<LossAttrs> = {
  name: "cross_entropy",
  infer(inputs) {
    const logits = required("cross_entropy", "logits", inputs, 0);
    const [t] = matrix("cross_entropy", "logits", logits);
    checkLabels("cross_entropy", t, inputs[1] ?? null, inputs[2] ?? null);
    return [...lossSpecs(), { dtype: "f32", shape: [t] }];
  },
  vjp(ctx) {
    const [logits, labels, lossScale] = ctx.node.inputs as [Value, Value, Value];
    const lse = ctx.node.outputs[2]!;
    ctx.give(0, (acc) =>
      accumulate(acc, apply1(crossEntropyGradOp, [logits, labels, lossScale, ctx.grad(0)!, lse], ctx.attrs)),
    );
  },
  cost: (node) => ({ flops: 8 * numel(node.inputs[0]!.shape), bytes: traffic(node) }),
};

/** dlogits, over the logits when they die here. Inputs: logits, labels, lossScale, dloss [1], lse. */
export const crossEntropyGradOp: Op<LossAttrs> = {
  name: "cross_entropy_grad",
  infer: (inputs) => [{ dtype: inputs[0]!.dtype, shape: inputs[0]!.shape }],
  cost: (node) => ({ flops: 8 * numel(node.inputs[0]!.shape), bytes: traffic(node) }),
  inPlace: () => [[0, 0]],
};

/** The loss [1] and its metrics [4] (LOSS_METRICS). */
export interface Loss {
  readonly loss: Value;
  readonly metrics: Value;
}

export interface LossOptions {
  labels: Value;
  /** What the sum over tokens is multiplied with: 1 / (trained tokens of the accumulation window). */
  lossScale: Value;
  softcap?: number;
  labelSmoothing?: number;
}

/** Cross-entropy of a language-model head over h, without whole logits. */
export function linearCrossEntropy(h: Value, head: { weight: Value; bias?: Value | null }, options: LossOptions): Loss {
  const attrs = { softcap: options.softcap ?? 0, labelSmoothing: options.labelSmoothing ?? 0 };
  const inputs = [h, head.weight, head.bias ?? null, options.labels, options.lossScale];
  const [loss, metrics] = graphOf([h]).apply(linearCrossEntropyOp, inputs, attrs);
  return { loss: loss!, metrics: metrics! };
}

/** Cross-entropy over logits [T, V]. */
export function crossEntropy(logits: Value, options: LossOptions): Loss {
  const attrs = { softcap: options.softcap ?? 0, labelSmoothing: options.labelSmoothing ?? 0 };
  const [loss, metrics] = graphOf([logits]).apply(crossEntropyOp, [logits, options.labels, options.lossScale], attrs);
  return { loss: loss!, metrics: metrics! };
}

const lossSpecs = (): TensorSpec[] => [
  { dtype: "f32", shape: [1] },
  { dtype: "f32", shape: [LOSS_METRICS.length] },
];

/** A head's operands, with labels and the loss's scale. */
function checkLossHead(op: string, inputs: readonly (Value | null)[]): [Value, Value] {
  const [h, w] = checkHead(op, inputs);
  checkLabels(op, matrix(op, "h", h)[0], inputs[3] ?? null, inputs[4] ?? null);
  return [h, w];
}

function checkLabels(op: string, tokens: number, labels: Value | null, lossScale: Value | null): void {
  expectSpec(op, "labels", required(op, "labels", [labels], 0), "i32", [tokens]);
  expectSpec(op, "lossScale", required(op, "lossScale", [lossScale], 0), "f32", [1]);
}
