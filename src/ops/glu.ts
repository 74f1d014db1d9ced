import { apply1, graphOf, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { numel } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { expectSpec, floatType, required, traffic } from "./check.ts";

export type GluActivation = "silu" | "geluTanh" | "gelu";

/** h = act(gate)·up (Shazeer 2020): SwiGLU with silu, GeGLU with gelu. Inputs: gate, up, one shape. */
export const gluOp: Op<{ act: GluActivation }> = {
  name: "glu",
  infer(inputs) {
    const gate = required("glu", "gate", inputs, 0);
    expectSpec("glu", "up", required("glu", "up", inputs, 1), gate.dtype, gate.shape);
    return [{ dtype: floatType("glu", "gate", gate), shape: gate.shape }];
  },
  vjp(ctx) {
    const [gate, up] = ctx.node.inputs as [Value, Value];
    const grads = graphOf([gate]).apply(gluGradOp, [gate, up, ctx.grad(0)!], ctx.attrs);
    ctx.give(0, (acc) => accumulate(acc, grads[0]!));
    ctx.give(1, (acc) => accumulate(acc, grads[1]!));
  },
  cost: (node) => ({ flops: 8 * numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: () => [
    [0, 0],
    [0, 1],
  ],
};

/** Gradients of gate and up. Inputs: gate, up, dh. */
export const gluGradOp: Op<{ act: GluActivation }> = {
  name: "glu_grad",
  infer: (inputs) => [0, 1].map(() => ({ dtype: inputs[0]!.dtype, shape: inputs[0]!.shape })),
  cost: (node) => ({ flops: 16 * numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: () => [
    [0, 0],
    [1, 1],
    [1, 2],
  ],
};

/** act(gate)·up */
export const glu = (gate: Value, up: Value, act: GluActivation): Value => apply1(gluOp, [gate, up], { act });
