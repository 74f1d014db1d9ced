import { apply1, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { GraphError, numel } from "../graph/types.ts";
import { floatType, traffic } from "./check.ts";

/** a + b, both of one type and shape, written over either operand that dies here: how gradients and residuals meet. */
export const addOp: Op<Record<string, never>> = {
  name: "add",
  infer([a, b]) {
    if (!a || !b || a.shape.join() !== b.shape.join() || a.dtype !== b.dtype) {
      throw new GraphError(`add: needs two values of one type and shape, found ${a} and ${b}`);
    }
    return [{ dtype: floatType("add", "a", a), shape: a.shape }];
  },
  vjp(ctx) {
    const dy = ctx.grad(0)!;
    ctx.give(0, (acc) => accumulate(acc, dy));
    ctx.give(1, (acc) => accumulate(acc, dy));
  },
  cost: (node) => ({ flops: numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: () => [
    [0, 0],
    [0, 1],
  ],
};

/** Elementwise sum of two values of one shape. */
export const add = (a: Value, b: Value): Value => apply1(addOp, [a, b], {});

/** `value` added to the gradient so far, if there is one. */
export const accumulate = (acc: Value | null, value: Value): Value => (acc ? add(acc, value) : value);
