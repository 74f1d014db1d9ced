import type { Value } from "../graph/graph.ts";
import { GraphError } from "../graph/types.ts";
import { expectSpec, matrix, required } from "./check.ts";

/** The operands of a language-model head that begin an op's inputs: h [T, d], W [V, d], bias? [V]. Throws GraphError. */
export function checkHead(op: string, inputs: readonly (Value | null)[]): [h: Value, w: Value] {
  const h = required(op, "h", inputs, 0);
  const w = required(op, "head weight", inputs, 1);
  const [, d] = matrix(op, "h", h);
  const [v, dw] = matrix(op, "head weight", w);
  if (d !== dw) throw new GraphError(`${op}: the head ${w} does not fit hidden states ${h}`);
  if (inputs[2]) expectSpec(op, "bias", inputs[2], "f32", [v]);
  return [h, w];
}

/** Cost of so many products of all tokens with the head. */
export function headCost(h: Value, w: Value, products: number): { flops: number; bytes: number } {
  const [t, d] = matrix("head", "h", h);
  return { flops: 2 * products * t * d * w.shape[0]!, bytes: w.bytes * products + h.bytes * 2 };
}
