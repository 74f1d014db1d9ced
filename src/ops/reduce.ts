import { apply1, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { numel } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { floatType, matrix, required, traffic } from "./check.ts";
import { expandTo, scale } from "./elementwise.ts";

/** y[j] = acc[j] + alpha·Σ_rows x[row, j], in f32: the gradient of a bias. Inputs: x [rows, cols], acc? [cols]. */
export const columnSumOp: Op<{ alpha: number }> = {
  name: "column_sum",
  infer(inputs) {
    const [, cols] = matrix("column_sum", "x", required("column_sum", "x", inputs, 0));
    return [{ dtype: "f32", shape: [cols] }];
  },
  cost: (node) => ({ flops: numel(node.inputs[0]!.shape), bytes: traffic(node) }),
  inPlace: (node) => (node.inputs[1] ? [[0, 1]] : []),
};

/** Column sums, plus `acc`. */
export function columnSum(x: Value, options: { alpha?: number; acc?: Value | null } = {}): Value {
  return apply1(columnSumOp, [x, options.acc ?? null], { alpha: options.alpha ?? 1 });
}

export type ReduceKind = "sum" | "mean";

/** Sum or mean, in f32, over each row (`axis` "row": [rows, cols] → [rows]) or over everything (`axis` "all" → [1]). */
export const reduceOp: Op<{ kind: ReduceKind; axis: "row" | "all" }> = {
  name: "reduce",
  infer(inputs, { axis }) {
    const x = required("reduce", "x", inputs, 0);
    floatType("reduce", "x", x);
    return [{ dtype: "f32", shape: axis === "all" ? [1] : [matrix("reduce", "x", x)[0]] }];
  },
  vjp(ctx) {
    const x = ctx.node.inputs[0]!;
    const { kind, axis } = ctx.attrs;
    const count = axis === "all" ? numel(x.shape) : matrix("reduce", "x", x)[1];
    ctx.give(0, (acc) => {
      const dy = kind === "mean" ? scale(ctx.grad(0)!, 1 / count) : ctx.grad(0)!;
      const dx = expandTo(dy, x, axis === "all" ? "scalar" : "column");
      return accumulate(acc, dx);
    });
  },
  cost: (node) => ({ flops: numel(node.inputs[0]!.shape), bytes: traffic(node) }),
};

/** Sum of every element, [1]. */
export const sum = (x: Value): Value => apply1(reduceOp, [x], { kind: "sum", axis: "all" });
/** Mean of every element, [1]. */
export const mean = (x: Value): Value => apply1(reduceOp, [x], { kind: "mean", axis: "all" });
/** Sum of each row, [rows]. */
export const sumRows = (x: Value): Value => apply1(reduceOp, [x], { kind: "sum", axis: "row" });
/** Mean of each row, [rows]. */
export const meanRows = (x: Value): Value => apply1(reduceOp, [x], { kind: "mean", axis: "row" });
