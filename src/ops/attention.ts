import { graphOf, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { GraphError } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { expectSpec, floatType, matrix, required, traffic } from "./check.ts";

type AttentionAttrs = {
  heads: number;
  kvHeads: number;
  headDim: number;
  scale: number;
  /** Keys a query sees, itself included; 0: all before it. */
  window: number;
  /** softcap·tanh(logit / softcap); 0: none. */
  softcap: number;
  causal: boolean;
};

/**
 * Scaled dot-product attention over packed sequences, without the T×T matrix (Dao 2023): token t sees tokens of its own
 * sequence [seqStart[t], seqEnd[t]) up to itself. Query heads share key heads in groups (heads / kvHeads).
 * Inputs: q [T, heads·headDim], k and v [T, kvHeads·headDim], seqStart i32[T], seqEnd i32[T].
 * Outputs: o, shape and type of q, and lse f32[heads, T], the log of each softmax's denominator.
 */
export const attentionOp: Op<AttentionAttrs> = {
  name: "attention",
  infer(inputs, { heads, kvHeads, headDim }) {
    const q = required("attention", "q", inputs, 0);
    const [t] = matrix("attention", "q", q);
    if (heads % kvHeads !== 0)
      throw new GraphError(`attention: ${heads} heads do not share ${kvHeads} key heads evenly`);
    const dtype = floatType("attention", "q", q);
    expectSpec("attention", "q", q, dtype, [t, heads * headDim]);
    for (const [role, index] of [
      ["k", 1],
      ["v", 2],
    ] as const) {
      expectSpec("attention", role, required("attention", role, inputs, index), dtype, [t, kvHeads * headDim]);
    }
    for (const [role, index] of [
      ["seqStart", 3],
      ["seqEnd", 4],
    ] as const) {
      expectSpec("attention", role, required("attention", role, inputs, index), "i32", [t]);
    }
    return [
      { dtype, shape: q.shape },
      { dtype: "f32", shape: [heads, t] },
    ];
  },
  vjp(ctx) {
    const { node } = ctx;
    if (ctx.grad(1)) throw new GraphError("attention: the log-sum-exp output is not differentiable");
    const grads = graphOf(node.inputs).apply(
      attentionGradOp,
      [...node.inputs, ...node.outputs, ctx.grad(0)!],
      ctx.attrs,
    );
    for (const index of [0, 1, 2]) ctx.give(index, (acc) => accumulate(acc, grads[index]!));
  },
  cost: (node) => ({ flops: pairFlops(node.outputs[0]!, node.attrs as AttentionAttrs, 4), bytes: traffic(node) }),
};

/** Gradients of attention, probabilities recomputed from lse. Inputs: those of attention, o, lse, do. Outputs: dq, dk, dv. */
export const attentionGradOp: Op<AttentionAttrs> = {
  name: "attention_grad",
  infer: (inputs) => [0, 1, 2].map((i) => ({ dtype: inputs[i]!.dtype, shape: inputs[i]!.shape })),
  cost: (node) => ({ flops: pairFlops(node.outputs[0]!, node.attrs as AttentionAttrs, 10), bytes: traffic(node) }),
};

/** How many keys a query of a sequence of so many tokens sees, in the mean, up to half a key. */
export function keysSeen(tokens: number, { window, causal }: Pick<AttentionAttrs, "window" | "causal">): number {
  const most = window > 0 ? Math.min(window, tokens) : tokens;
  return causal ? most - most ** 2 / (2 * tokens) : most;
}

// An upper bound: a graph does not know how its tokens fall into sequences.
function pairFlops(q: Value, attrs: AttentionAttrs, perPair: number): number {
  const tokens = q.shape[0]!;
  return perPair * attrs.heads * attrs.headDim * tokens * keysSeen(tokens, attrs);
}

export interface AttentionOptions extends Omit<AttentionAttrs, "scale" | "window" | "softcap" | "causal"> {
  scale?: number;
  window?: number;
  softcap?: number;
  causal?: boolean;
}

/** The sequences that packed tokens fall into: for each token where its sequence starts, and where it ends. */
export interface Sequences {
  readonly seqStart: Value;
  readonly seqEnd: Value;
}

/** Attention's output [T, heads·headDim]. */
export function attention(q: Value, k: Value, v: Value, sequences: Sequences, options: AttentionOptions): Value {
  const attrs = { scale: options.headDim ** -0.5, window: 0, softcap: 0, causal: true, ...options };
  return graphOf([q]).apply(attentionOp, [q, k, v, sequences.seqStart, sequences.seqEnd], attrs)[0]!;
}
