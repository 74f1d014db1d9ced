import { apply1, type Node, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { GraphError, numel } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { expectSpec, floatType, required, traffic } from "./check.ts";

type NormAttrs = { eps: number; offset: number };

/**
 * y = residual + x·rsqrt(mean(x²) + eps)·(offset + w) over rows of length d = |w| (Zhang & Sennrich 2019). x may hold
 * several such rows in each of its own (Qwen3 normalises every head). offset is 1 for Gemma. Inputs: x, w [d], residual?.
 */
export const rmsNormOp: Op<NormAttrs> = {
  name: "rms_norm",
  infer(inputs) {
    const x = required("rms_norm", "x", inputs, 0);
    const w = required("rms_norm", "weight", inputs, 1);
    expectSpec("rms_norm", "weight", w, "f32", [-1]);
    const dtype = floatType("rms_norm", "x", x);
    if (numel(x.shape) % w.shape[0]! !== 0) {
      throw new GraphError(`rms_norm: x must have rows of ${w.shape[0]}, found ${x}`);
    }
    if (inputs[2]) expectSpec("rms_norm", "residual", inputs[2], dtype, x.shape);
    return [{ dtype, shape: x.shape }];
  },
  vjp(ctx) {
    const [x, w] = ctx.node.inputs as [Value, Value];
    const dy = ctx.grad(0)!;
    ctx.give(0, (acc) => apply1(rmsNormGradOp, [dy, x, w, acc], ctx.attrs));
    ctx.give(1, (acc) => apply1(rmsNormGradWeightOp, [dy, x, acc], { eps: ctx.attrs.eps, d: w.shape[0]! }));
    ctx.give(2, (acc) => accumulate(acc, dy));
  },
  cost: (node) => ({ flops: 4 * numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: (node) =>
    node.inputs[2]
      ? [
          [0, 0],
          [0, 2],
        ]
      : [[0, 0]],
};

/** dx = acc + d(rms_norm)/dx·dy. Inputs: dy, x, w, acc?. */
export const rmsNormGradOp: Op<NormAttrs> = {
  name: "rms_norm_grad",
  infer: (inputs) => [{ dtype: inputs[1]!.dtype, shape: inputs[1]!.shape }],
  cost: (node) => ({ flops: 8 * numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: (node: Node) =>
    node.inputs[3]
      ? [
          [0, 3],
          [0, 0],
        ]
      : [[0, 0]],
};

/** dw = acc + Σ_rows dy·x·rstd. Inputs: dy, x, acc?. */
export const rmsNormGradWeightOp: Op<{ eps: number; d: number }> = {
  name: "rms_norm_grad_weight",
  infer: (_, { d }) => [{ dtype: "f32", shape: [d] }],
  cost: (node) => ({ flops: 4 * numel(node.inputs[0]!.shape), bytes: traffic(node) }),
  inPlace: (node: Node) => (node.inputs[2] ? [[0, 2]] : []),
};

/** Root-mean-square normalisation of rows of |weight| elements, plus `residual`. */
export function rmsNorm(
  x: Value,
  weight: Value,
  options: { eps: number; offset?: number; residual?: Value | null },
): Value {
  return apply1(rmsNormOp, [x, weight, options.residual ?? null], { eps: options.eps, offset: options.offset ?? 0 });
}
