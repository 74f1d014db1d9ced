import { graphOf, type Node, type Value } from "../graph/graph.ts";
import type { Attrs, Cost, Op, VjpContext } from "../graph/op.ts";
import { GraphError, type TensorSpec } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { expectSpec, floatType, matrix, required } from "./check.ts";

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
export function headCost(h: Value, w: Value, products: number): Cost {
  const [t, d] = matrix("head", "h", h);
  return { flops: 2 * products * t * d * w.shape[0]!, bytes: w.bytes * products + h.bytes * 2 };
}

/** Which gradients beside that of the hidden states an op gives. */
export type HeadGrads = { weightGrad: boolean; biasGrad: boolean };

/** Inputs of an op with a head, and of its gradients' op before the accumulators: h, W, bias? and two more. */
const INPUTS = 5;

/** Outputs of a gradients' op: dh [T, d], then dW [V, d] when `weightGrad` and dBias [V] when `biasGrad`. Throws GraphError. */
export function headGradSpecs(op: string, [h, w]: readonly [Value, Value], { weightGrad, biasGrad }: HeadGrads) {
  if (weightGrad && w.dtype !== "f32") throw new GraphError(`${op}: a trained head must be f32, found ${w}`);
  const specs: TensorSpec[] = [{ dtype: floatType(op, "h", h), shape: h.shape }];
  if (weightGrad) specs.push({ dtype: "f32", shape: w.shape });
  if (biasGrad) specs.push({ dtype: "f32", shape: [w.shape[0]!] });
  return specs;
}

/** Gradients over their accumulators, where `before` outputs come before dh. */
export function headGradPlaces({ inputs, outputs }: Node, before: number): [number, number][] {
  const pairs: [number, number][] = [];
  if (inputs[INPUTS]) pairs.push([before + 1, INPUTS]);
  if (inputs[INPUTS + 1]) pairs.push([outputs.length - 1, INPUTS + 1]);
  return pairs;
}

export const headGradCost = ({ inputs, attrs }: Node): Cost =>
  headCost(inputs[0]!, inputs[1]!, attrs.weightGrad ? 3 : 2);

/**
 * Applies the op of a head's gradients and gives them to h, W and bias; gives all of its outputs. One node makes every
 * gradient, so the accumulators are asked for before it is made.
 * @param inputs h, W, bias? and the op's own two
 * @param before outputs that come before dh
 */
export function applyHeadGrads<A extends Attrs>(
  ctx: VjpContext<A>,
  op: Op<A & HeadGrads>,
  inputs: readonly (Value | null)[],
  before: number,
): readonly Value[] {
  const grads = { weightGrad: ctx.needs(1), biasGrad: inputs[2] !== null && ctx.needs(2) };
  const accumulators = [grads.weightGrad ? ctx.accumulator(1) : null, grads.biasGrad ? ctx.accumulator(2) : null];
  const outputs = graphOf(inputs).apply(op, [...inputs, ...accumulators], { ...ctx.attrs, ...grads });
  ctx.give(0, (acc) => accumulate(acc, outputs[before]!));
  ctx.give(1, () => outputs[before + 1]!);
  ctx.give(2, () => outputs[outputs.length - 1]!);
  return outputs;
}
