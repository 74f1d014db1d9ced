import { apply1, graphOf, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { GraphError } from "../graph/types.ts";
import { expectSpec, required, traffic } from "./check.ts";

/** Σ x² over all elements of all inputs, which are f32, partial sums in float64. */
export const sumSquaresOp: Op<Record<string, never>> = {
  name: "sum_squares",
  infer: (inputs) => {
    required("sum_squares", "x", inputs, 0);
    for (const x of inputs) if (x) expectSpec("sum_squares", "x", x, "f32", x.shape);
    return [{ dtype: "f32", shape: [1] }];
  },
  cost: (node) => ({ flops: traffic(node) / 2, bytes: traffic(node) }),
};

/** Sum of the squares of all elements of several values. */
export function sumSquares(values: readonly Value[]): Value {
  if (values.length === 0) throw new GraphError("sum_squares: no values");
  return apply1(sumSquaresOp, values, {});
}

/**
 * Global-norm clipping (Pascanu et al. 2013; torch.nn.utils.clip_grad_norm_): norm = √sum and factor =
 * min(1, maxNorm / (norm + 1e-6)); maxNorm ≤ 0 means no clipping. Inputs: sum of squares [1], maxNorm [1]. Outputs: norm [1], factor [1].
 */
export const clipFactorOp: Op<Record<string, never>> = {
  name: "clip_factor",
  infer: () => [
    { dtype: "f32", shape: [1] },
    { dtype: "f32", shape: [1] },
  ],
  cost: () => ({ flops: 4, bytes: 16 }),
};

/** Gradient norm and the factor that clips it. */
export function clipFactor(sumOfSquares: Value, maxNorm: Value): { norm: Value; factor: Value } {
  const [norm, factor] = graphOf([sumOfSquares]).apply(clipFactorOp, [sumOfSquares, maxNorm], {});
  return { norm: norm!, factor: factor! };
}

/** Order of the numbers in the optimizers' `hyper` input f32[8]. */
export const ADAMW_HYPER = [
  "learningRate",
  "beta1",
  "beta2",
  "epsilon",
  "weightDecay",
  "correction1",
  "correction2Root",
] as const;

/**
 * AdamW (Loshchilov & Hutter 2019), PyTorch's order: p ×= 1 − lr·wd; p −= lr/c1·m/(√v/c2 + ε), c1 = 1−β1ᵗ, c2 = √(1−β2ᵗ).
 * Updates p, m and v in place. Inputs: p, gradient, m, v, hyper f32[8], factor [1]. Outputs: p, m, v.
 */
export const adamwOp: Op<{ decay: boolean }> = {
  name: "adamw",
  infer(inputs) {
    const p = required("adamw", "parameter", inputs, 0);
    for (const [role, index] of [
      ["parameter", 0],
      ["gradient", 1],
      ["m", 2],
      ["v", 3],
    ] as const) {
      expectSpec("adamw", role, required("adamw", role, inputs, index), "f32", p.shape);
    }
    return [p, inputs[2]!, inputs[3]!].map(({ dtype, shape }) => ({ dtype, shape }));
  },
  cost: (node) => ({ flops: 12 * (node.inputs[0]!.bytes / 4), bytes: traffic(node) }),
  inPlace: () => [
    [0, 0],
    [1, 2],
    [2, 3],
  ],
};

/**
 * AdamW with both states in 8 bits, a scale for every 256 elements (Dettmers et al. 2022; bitsandbytes' AdamW8bit, which
 * decays after the step). Updates in place. Inputs: p, gradient, state1 u8, absmax1, state2 u8, absmax2, map1 f32[256],
 * map2 f32[256], hyper, factor. Outputs: p, state1, absmax1, state2, absmax2.
 */
export const adamw8bitOp: Op<{ decay: boolean }> = {
  name: "adamw8bit",
  infer(inputs) {
    const roles = [
      "parameter",
      "gradient",
      "state1",
      "absmax1",
      "state2",
      "absmax2",
      "map1",
      "map2",
      "hyper",
      "factor",
    ];
    const values = roles.map((role, index) => required("adamw8bit", role, inputs, index));
    expectSpec("adamw8bit", "gradient", values[1]!, "f32", values[0]!.shape);
    return [values[0]!, values[2]!, values[3]!, values[4]!, values[5]!].map(({ dtype, shape }) => ({ dtype, shape }));
  },
  cost: (node) => ({ flops: 40 * (node.inputs[0]!.bytes / 4), bytes: traffic(node) }),
  inPlace: () => [
    [0, 0],
    [1, 2],
    [2, 3],
    [3, 4],
    [4, 5],
  ],
};

/** Clears a persistent tensor (gradient buffers, after a step). */
export const clearOp: Op<Record<string, never>> = {
  name: "clear",
  infer: ([x]) => [{ dtype: x!.dtype, shape: x!.shape }],
  cost: (node) => ({ flops: 0, bytes: node.inputs[0]!.bytes }),
  inPlace: () => [[0, 0]],
};
