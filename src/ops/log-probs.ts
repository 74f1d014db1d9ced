import { graphOf, type Value } from "../graph/graph.ts";
import type { Op, VjpContext } from "../graph/op.ts";
import { GraphError, numel, type TensorSpec } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { expectSpec, matrix, required, traffic } from "./check.ts";
import {
  applyHeadGrads,
  checkHead,
  type HeadGrads,
  headCost,
  headGradCost,
  headGradPlaces,
  headGradSpecs,
} from "./head.ts";

type LogProbAttrs = {
  /** softcap·tanh(logit / softcap); 0: none. */
  softcap: number;
  /** Logits are multiplied with it after the soft cap: 1 / temperature. */
  scale: number;
};

/** What the ops give for each token, f32[T] each, 0 where the label is −100. */
const OUTPUTS = 4;

/**
 * log p(labels[t]) under softmax(scale·softcap(h[t]·Wᵀ + bias)) for tokens whose label is not −100, the logits made a chunk
 * of those tokens at a time: the whole [T, V] never exists.
 * Inputs: h [T, d], W [V, d] in any weight type, bias? [V], labels i32[T].
 * Outputs, f32[T]: logp; entropy of the distribution; mean of the logits (before `scale`); 1 where the label is the first
 * largest logit. Only logp is differentiable.
 */
export const linearLogProbsOp: Op<LogProbAttrs> = {
  name: "linear_log_probs",
  infer: (inputs) => tokenSpecs(checkLabelledHead("linear_log_probs", inputs)[0].shape[0]!),
  vjp(ctx) {
    const dlogp = upstream("linear_log_probs", ctx);
    if (!dlogp) return;
    applyHeadGrads(ctx, linearLogProbsGradOp, [...ctx.node.inputs, dlogp], 0);
  },
  cost: (node) => headCost(node.inputs[0]!, node.inputs[1]!, 1),
};

/**
 * Its gradient: dh [T, d] (zero for tokens without a label), then dW [V, d] when `weightGrad` and dBias [V] when `biasGrad`.
 * Inputs: those of the op, dlogp f32[T], accW?, accBias?.
 */
export const linearLogProbsGradOp: Op<LogProbAttrs & HeadGrads> = {
  name: "linear_log_probs_grad",
  infer: (inputs, attrs) =>
    headGradSpecs("linear_log_probs", checkLabelledHead("linear_log_probs_grad", inputs), attrs),
  cost: headGradCost,
  inPlace: (node) => headGradPlaces(node, 0),
};

/** The same over given logits [T, V]; for heads that are more than one product. Inputs: logits, labels i32[T]. */
export const logProbsOp: Op<LogProbAttrs> = {
  name: "log_probs",
  infer(inputs) {
    const [t] = matrix("log_probs", "logits", required("log_probs", "logits", inputs, 0));
    expectSpec("log_probs", "labels", required("log_probs", "labels", inputs, 1), "i32", [t]);
    return tokenSpecs(t);
  },
  vjp(ctx) {
    const dlogp = upstream("log_probs", ctx);
    if (!dlogp) return;
    const [logits, labels] = ctx.node.inputs as [Value, Value];
    ctx.give(0, (acc) =>
      accumulate(acc, graphOf([logits]).apply(logProbsGradOp, [logits, labels, dlogp], ctx.attrs)[0]!),
    );
  },
  cost: (node) => ({ flops: 8 * numel(node.inputs[0]!.shape), bytes: traffic(node) }),
};

/** dlogits, over the logits when they die here. Inputs: logits, labels, dlogp f32[T]. */
export const logProbsGradOp: Op<LogProbAttrs> = {
  name: "log_probs_grad",
  infer: (inputs) => [{ dtype: inputs[0]!.dtype, shape: inputs[0]!.shape }],
  cost: (node) => ({ flops: 8 * numel(node.inputs[0]!.shape), bytes: traffic(node) }),
  inPlace: () => [[0, 0]],
};

/** Numbers about each token's label, f32[T] each, 0 where the label is −100. */
export interface TokenLogProbs {
  /** log p(label), differentiable. */
  readonly logps: Value;
  /** Entropy of the distribution the label is drawn from. */
  readonly entropy: Value;
  /** Mean over the vocabulary of the logits, before the temperature. */
  readonly meanLogits: Value;
  /** 1 where the label is the first largest logit. */
  readonly correct: Value;
}

export interface LogProbOptions {
  readonly labels: Value;
  readonly softcap?: number;
  /** Logits are divided by it. */
  readonly temperature?: number;
}

/** Log-probabilities of labels under a language-model head over h, without whole logits. */
export function linearLogProbs(
  h: Value,
  head: { weight: Value; bias?: Value | null },
  options: LogProbOptions,
): TokenLogProbs {
  const inputs = [h, head.weight, head.bias ?? null, options.labels];
  return named(graphOf([h]).apply(linearLogProbsOp, inputs, attrsOf(options)));
}

/** Log-probabilities of labels under logits [T, V]. */
export function logProbs(logits: Value, options: LogProbOptions): TokenLogProbs {
  return named(graphOf([logits]).apply(logProbsOp, [logits, options.labels], attrsOf(options)));
}

const attrsOf = ({ softcap = 0, temperature = 1 }: LogProbOptions): LogProbAttrs => {
  if (!(temperature > 0)) throw new GraphError(`log_probs: temperature must be above 0, found ${temperature}`);
  return { softcap, scale: 1 / temperature };
};

function named(outputs: readonly Value[]): TokenLogProbs {
  const [logps, entropy, meanLogits, correct] = outputs as [Value, Value, Value, Value];
  return { logps, entropy, meanLogits, correct };
}

const tokenSpecs = (tokens: number): TensorSpec[] =>
  Array.from({ length: OUTPUTS }, () => ({ dtype: "f32", shape: [tokens] }));

function upstream(op: string, ctx: VjpContext<LogProbAttrs>): Value | null {
  for (let index = 1; index < OUTPUTS; index++) {
    if (ctx.grad(index)) throw new GraphError(`${op}: only the log-probabilities are differentiable`);
  }
  return ctx.grad(0);
}

/** A head's operands, with labels. */
function checkLabelledHead(op: string, inputs: readonly (Value | null)[]): [Value, Value] {
  const [h, w] = checkHead(op, inputs);
  expectSpec(op, "labels", required(op, "labels", inputs, 3), "i32", [matrix(op, "h", h)[0]]);
  return [h, w];
}
