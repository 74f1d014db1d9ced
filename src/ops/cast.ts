import { apply1, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { type FloatDType, numel } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { floatType, required, traffic } from "./check.ts";

/** x in another floating-point type, rounded to nearest even. Its derivative goes back to the type of x. */
export const castOp: Op<{ dtype: FloatDType }> = {
  name: "cast",
  infer(inputs, { dtype }) {
    const x = required("cast", "x", inputs, 0);
    floatType("cast", "x", x);
    return [{ dtype, shape: x.shape }];
  },
  vjp(ctx) {
    const dtype = floatType("cast", "x", ctx.node.inputs[0]!);
    ctx.give(0, (acc) => accumulate(acc, cast(ctx.grad(0)!, dtype)));
  },
  cost: (node) => ({ flops: numel(node.outputs[0]!.shape), bytes: traffic(node) }),
};

/** x in a type; x itself when it is of that type already. */
export function cast(x: Value, dtype: Value["dtype"]): Value {
  return x.dtype === dtype ? x : apply1(castOp, [x], { dtype: dtype as FloatDType });
}
