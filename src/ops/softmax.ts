import { apply1, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { numel } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { floatType, matrix, required, traffic } from "./check.ts";

/**
 * y = scale·x − lse(scale·x) over each row of x [rows, cols], the sums in f32: for losses over whole distributions
 * (distillation). `scale` is 1 / temperature.
 */
export const logSoftmaxOp: Op<{ scale: number }> = {
  name: "log_softmax",
  infer(inputs) {
    const x = required("log_softmax", "x", inputs, 0);
    matrix("log_softmax", "x", x);
    return [{ dtype: floatType("log_softmax", "x", x), shape: x.shape }];
  },
  vjp(ctx) {
    const y = ctx.node.outputs[0]!;
    ctx.give(0, (acc) => accumulate(acc, apply1(logSoftmaxGradOp, [y, ctx.grad(0)!], ctx.attrs)));
  },
  cost: (node) => ({ flops: 8 * numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: () => [[0, 0]],
};

/** dx = scale·(dy − e^y·Σ_row dy). Inputs: y, dy. */
export const logSoftmaxGradOp: Op<{ scale: number }> = {
  name: "log_softmax_grad",
  infer: ([, dy]) => [{ dtype: dy!.dtype, shape: dy!.shape }],
  cost: (node) => ({ flops: 6 * numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: () => [[0, 1]],
};

/** Log-probabilities of every row's softmax, [rows, cols]. Logits are divided by `temperature`. */
export const logSoftmax = (x: Value, temperature = 1): Value => apply1(logSoftmaxOp, [x], { scale: 1 / temperature });
