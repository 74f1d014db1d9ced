import { Node, type Value } from "../graph/graph.ts";
import type { Attrs, Op } from "../graph/op.ts";
import { traffic } from "./check.ts";
import { matmulOp } from "./matmul.ts";

/**
 * Both gradients of a low-rank update y += s·low·Bᵀ as one step, for backends that read dy once for them:
 * dlow = alpha0·dy·B and dB = acc + alpha1·dyᵀ·low. Inputs: dy [T, n], B [n, r], low [T, r], acc? [n, r].
 * Outputs: dlow [T, r] of dy's type, dB f32[n, r].
 */
export const loraGradOp: Op = {
  name: "lora_grad",
  infer: (inputs, attrs) =>
    asProducts(inputs, attrs).map(({ inputs: own, attrs: its }) => matmulOp.infer(own, its as MatmulAttrs)[0]!),
  cost: (node) => ({
    flops: 4 * node.inputs[0]!.shape[0]! * node.inputs[1]!.shape.reduce((a, b) => a * b, 1),
    bytes: traffic(node),
  }),
  inPlace: (node) => (node.inputs[3] ? [[1, 3]] : []),
};

type MatmulAttrs = Parameters<typeof matmulOp.infer>[1];

/** Inputs and attributes of the step that is these two products, dy·B and dyᵀ·low. */
export function loraGradOf(low: Node, right: Node): { inputs: (Value | null)[]; attrs: Attrs } {
  const inputs = [low.inputs[0]!, low.inputs[1]!, right.inputs[1]!, right.inputs[2] ?? null];
  return { inputs, attrs: { alpha0: low.attrs.alpha!, alpha1: right.attrs.alpha!, dtype: low.attrs.dtype! } };
}

/** The two products as nodes of their own. */
export function loraGradProducts({ inputs, attrs, outputs, scope, phase }: Node): Node[] {
  return asProducts(inputs, attrs).map(
    ({ inputs: own, attrs: its }, i) =>
      new Node(outputs[0]!.graph, matmulOp as unknown as Op, own, its, { scope, phase, outputs: [outputs[i]!] }),
  );
}

function asProducts(inputs: readonly (Value | null)[], attrs: Attrs): { inputs: (Value | null)[]; attrs: Attrs }[] {
  const [dy, b, low, acc = null] = inputs as [Value, Value, Value, Value | null];
  const product = (own: (Value | null)[], transA: boolean, alpha: unknown, dtype: unknown) => ({
    inputs: [...own, null, null, null],
    attrs: { transA, transB: false, alpha, alpha2: 1, dtype } as Attrs,
  });
  return [product([dy, b, null], false, attrs.alpha0, attrs.dtype), product([dy, low, acc], true, attrs.alpha1, "f32")];
}
