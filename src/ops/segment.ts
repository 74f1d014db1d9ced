import { apply1, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { GraphError } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { expectSpec, required, traffic } from "./check.ts";

/**
 * out[s] = Σ over t with segments[t] = s of x[t], in t order: numbers a token become numbers a sequence. A negative segment
 * is left out. Inputs: x f32[T], segments i32[T]. Output: f32[segments].
 */
export const segmentSumOp: Op<{ segments: number }> = {
  name: "segment_sum",
  infer(inputs, { segments }) {
    checkVector("segment_sum", inputs, "segments", true);
    return [{ dtype: "f32", shape: [segments] }];
  },
  vjp(ctx) {
    const segments = ctx.node.inputs[1]!;
    ctx.give(0, (acc) => accumulate(acc, takeFrom(ctx.grad(0)!, segments)));
  },
  cost: (node) => ({ flops: 0, bytes: traffic(node) }),
};

/**
 * out[i] = x[indices[i]], 0 where the index is negative. Inputs: x f32[n], indices i32[m]. Output: f32[m].
 */
export const takeOp: Op<Record<string, never>> = {
  name: "take",
  infer(inputs) {
    const indices = checkVector("take", inputs, "indices", false);
    return [{ dtype: "f32", shape: indices.shape }];
  },
  vjp(ctx) {
    const [x, indices] = ctx.node.inputs as [Value, Value];
    ctx.give(0, (acc) => accumulate(acc, segmentSum(ctx.grad(0)!, indices, x.shape[0]!)));
  },
  cost: (node) => ({ flops: 0, bytes: traffic(node) }),
};

/** Sums by segment, f32[count]. */
export function segmentSum(x: Value, segments: Value, count: number): Value {
  if (!Number.isInteger(count) || count < 1)
    throw new GraphError(`segment_sum: expected at least one segment, found ${count}`);
  return apply1(segmentSumOp, [x, segments], { segments: count });
}

/** Elements of a vector, f32[m]; 0 at negative indices. */
export const takeFrom = (x: Value, indices: Value): Value => apply1(takeOp, [x, indices], {});

function checkVector(op: string, inputs: readonly (Value | null)[], role: string, sameLength: boolean): Value {
  const x = required(op, "x", inputs, 0);
  expectSpec(op, "x", x, "f32", [-1]);
  const indices = required(op, role, inputs, 1);
  expectSpec(op, role, indices, "i32", [sameLength ? x.shape[0]! : -1]);
  return indices;
}
