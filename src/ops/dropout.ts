import { apply1, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { GraphError, numel } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { expectSpec, floatType, required, traffic } from "./check.ts";

type DropoutAttrs = { p: number; salt: number };

/**
 * y = x·keep/(1−p), keep drawn from a counter-based generator (Salmon et al. 2011) by (seed, salt, element): the mask is
 * never stored, and a recomputed clone draws the same one. `salt` tells the dropouts of one program apart.
 * Inputs: x, seed u32[2].
 */
export const dropoutOp: Op<DropoutAttrs> = {
  name: "dropout",
  infer(inputs, { p }) {
    const x = required("dropout", "x", inputs, 0);
    expectSpec("dropout", "seed", required("dropout", "seed", inputs, 1), "u32", [2]);
    if (!(p >= 0 && p < 1)) throw new GraphError(`dropout: p must be in [0, 1), found ${p}`);
    return [{ dtype: floatType("dropout", "x", x), shape: x.shape }];
  },
  vjp(ctx) {
    const seed = ctx.node.inputs[1]!;
    ctx.give(0, (acc) => accumulate(acc, apply1(dropoutOp, [ctx.grad(0)!, seed], ctx.attrs)));
  },
  cost: (node) => ({ flops: 10 * numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: () => [[0, 0]],
};

/** Inverted dropout. */
export const dropout = (x: Value, seed: Value, p: number, salt: number): Value =>
  p === 0 ? x : apply1(dropoutOp, [x, seed], { p, salt });
