import { apply1, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { GraphError, numel } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { expectSpec, floatType, matrix, required, traffic } from "./check.ts";

type RopeAttrs = { heads: number; headDim: number; inverse: boolean };

/**
 * Rotary position embedding (Su et al. 2021) in Hugging Face's rotate-half layout, on every head of x [T, heads·headDim].
 * table is [maxPos, headDim]: cosines then sines of the headDim/2 angles; positions i32[T]. The derivative is the inverse
 * rotation. Inputs: x, table, positions.
 */
export const ropeOp: Op<RopeAttrs> = {
  name: "rope",
  infer(inputs, { heads, headDim }) {
    const x = required("rope", "x", inputs, 0);
    const [t, width] = matrix("rope", "x", x);
    if (width !== heads * headDim || headDim % 2 !== 0) {
      throw new GraphError(`rope: x must have ${heads} heads of an even size ${headDim}, found ${x}`);
    }
    expectSpec("rope", "table", required("rope", "table", inputs, 1), "f32", [-1, headDim]);
    expectSpec("rope", "positions", required("rope", "positions", inputs, 2), "i32", [t]);
    return [{ dtype: floatType("rope", "x", x), shape: x.shape }];
  },
  vjp(ctx) {
    const [, table, positions] = ctx.node.inputs as [Value, Value, Value];
    const attrs = { ...ctx.attrs, inverse: !ctx.attrs.inverse };
    ctx.give(0, (acc) => accumulate(acc, apply1(ropeOp, [ctx.grad(0)!, table, positions], attrs)));
  },
  cost: (node) => ({ flops: 3 * numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: () => [[0, 0]],
};

/** Rotate every head of x by its token's position. */
export function rope(x: Value, table: Value, positions: Value, options: { heads: number; headDim: number }): Value {
  return apply1(ropeOp, [x, table, positions], { heads: options.heads, headDim: options.headDim, inverse: false });
}
