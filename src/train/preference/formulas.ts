import { apply1, type Value } from "../../graph/graph.ts";
import { add } from "../../ops/add.ts";
import { detach } from "../../ops/detach.ts";
import { binary, binaryOp, expandTo, logSigmoid, mul, neg, scale, sub, unary } from "../../ops/elementwise.ts";
import { sumRows } from "../../ops/reduce.ts";
import type { LossContext } from "../loss.ts";

/** x + c */
export const shift = (x: Value, c: number): Value => unary("shift", x, c);

/** 1 − x */
export const oneMinus = (x: Value): Value => shift(neg(x), 1);

/** −logσ(x) */
export const softMinus = (x: Value): Value => neg(logSigmoid(x));

/** −(1−ε)·logσ(x) − ε·logσ(−x): the logistic loss where a share ε of the labels may be wrong. */
export function smoothedLogistic(x: Value, epsilon: number): Value {
  if (epsilon === 0) return softMinus(x);
  return add(scale(softMinus(x), 1 - epsilon), scale(softMinus(neg(x)), epsilon));
}

/** (x − c)² */
export const squaredError = (x: Value, c: number): Value => unary("square", shift(x, -c));

/**
 * A vector's elements in rising order, equal ones in the order they have: f32[n]. Element i comes at the place that says
 * how many are smaller; a matrix of zeros and ones brings it there, so that the gradient finds its way back.
 * Needs the batch's inputs `order` and `earlier` (see `collatePairs`).
 */
export function sorted(ctx: LossContext, x: Value): Value {
  const earlier = ctx.input("earlier");
  const zeros = scale(earlier, 0);
  const own = expandTo(x, earlier, "column");
  const others = rowOf(zeros, x);
  const ties = mul(binary("equal", own, others), earlier);
  const places = sumRows(add(binary("greater", own, others), ties));
  // Row k has a 1 in the column of the element whose place k is.
  const moves = detach(binary("equal", expandTo(ctx.input("order"), earlier, "column"), rowOf(zeros, places)));
  return sumRows(apply1(binaryOp, [moves, x], { kind: "mul", aSpread: "full", bSpread: "row" }));
}

const rowOf = (zeros: Value, x: Value): Value =>
  apply1(binaryOp, [zeros, x], { kind: "add", aSpread: "full", bSpread: "row" });

/** How much larger the first is, and in how many cases it is: what TRL logs of rewards. f32[n] each. */
export function rewardLogs(chosen: Value, rejected: Value): Record<string, Value> {
  return {
    "rewards/chosen": chosen,
    "rewards/rejected": rejected,
    "rewards/accuracies": binary("greater", chosen, rejected),
    "rewards/margins": sub(chosen, rejected),
  };
}
