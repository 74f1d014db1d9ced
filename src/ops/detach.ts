import { apply1, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { GraphError } from "../graph/types.ts";
import { required } from "./check.ts";

/** x itself, but a constant to whoever differentiates: no gradient goes past it. Costs nothing. */
export const detachOp: Op<Record<string, never>> = {
  name: "detach",
  view: true,
  constant: true,
  infer(inputs) {
    const x = required("detach", "x", inputs, 0);
    // A view shows another value's memory in the arena; tensors are elsewhere, and need no detaching unless trained.
    if (x.kind === "tensor") throw new GraphError(`detach: expected a computed value, found the tensor ${x}`);
    return [{ dtype: x.dtype, shape: x.shape }];
  },
};

/** x without its derivative. */
export const detach = (x: Value): Value => apply1(detachOp, [x], {});
