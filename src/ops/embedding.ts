import { apply1, type Node, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { type FloatDType, numel } from "../graph/types.ts";
import { expectSpec, floatType, matrix, required, traffic } from "./check.ts";

type EmbeddingAttrs = { scale: number; transposed: boolean; dtype: FloatDType };

/**
 * out[t] = scale·table[ids[t]], [T, d]. The table is [V, d] in any weight type, or with `transposed` [d, V] f32 (the A
 * matrix of a LoRA on an embedding). Gemma scales by √d. `dtype` is the type of out: here activations get theirs.
 * Inputs: table, ids i32[T].
 */
export const embeddingOp: Op<EmbeddingAttrs> = {
  name: "embedding",
  infer(inputs, { transposed, dtype }) {
    const [rows, cols] = matrix("embedding", "table", required("embedding", "table", inputs, 0));
    const ids = required("embedding", "ids", inputs, 1);
    expectSpec("embedding", "ids", ids, "i32", [-1]);
    return [{ dtype, shape: [ids.shape[0]!, transposed ? rows : cols] }];
  },
  vjp(ctx) {
    const [table, ids] = ctx.node.inputs as [Value, Value];
    ctx.give(0, (acc) =>
      apply1(embeddingGradOp, [ctx.grad(0)!, ids, acc], { ...ctx.attrs, rows: table.shape[0]!, cols: table.shape[1]! }),
    );
  },
  cost: (node) => ({ flops: 0, bytes: 2 * node.outputs[0]!.bytes }),
};

/** dTable = acc + Σ_t scale·dy[t] at row ids[t], summed in t order. Inputs: dy [T, d], ids, acc?. */
export const embeddingGradOp: Op<EmbeddingAttrs & { rows: number; cols: number }> = {
  name: "embedding_grad",
  infer: (_, { rows, cols }) => [{ dtype: "f32", shape: [rows, cols] }],
  cost: (node) => ({ flops: numel(node.inputs[0]!.shape), bytes: traffic(node) }),
  inPlace: (node: Node) => (node.inputs[2] ? [[0, 2]] : []),
};

/** Token vectors, [T, d]. */
export function embedding(table: Value, ids: Value, options: Partial<EmbeddingAttrs> = {}): Value {
  return apply1(embeddingOp, [table, ids], { scale: 1, transposed: false, dtype: "f32", ...options });
}

/** out[i] = x[rows[i]] for x [T, d] and rows i32[n]; a negative row gives zeros. */
export const selectRowsOp: Op<Record<string, never>> = {
  name: "select_rows",
  infer(inputs) {
    const x = required("select_rows", "x", inputs, 0);
    const rows = required("select_rows", "rows", inputs, 1);
    expectSpec("select_rows", "rows", rows, "i32", [-1]);
    return [{ dtype: floatType("select_rows", "x", x), shape: [rows.shape[0]!, matrix("select_rows", "x", x)[1]] }];
  },
  vjp(ctx) {
    const [x, rows] = ctx.node.inputs as [Value, Value];
    ctx.give(0, (acc) => apply1(selectRowsGradOp, [ctx.grad(0)!, rows, acc], { rows: x.shape[0]! }));
  },
  cost: (node) => ({ flops: 0, bytes: 2 * node.outputs[0]!.bytes }),
};

/** dx = acc + scatter-add of dy into rows. Inputs: dy [n, d], rows i32[n], acc?. */
export const selectRowsGradOp: Op<{ rows: number }> = {
  name: "select_rows_grad",
  infer: ([dy], { rows }) => [{ dtype: dy!.dtype, shape: [rows, matrix("select_rows_grad", "dy", dy!)[1]] }],
  cost: (node) => ({ flops: 0, bytes: traffic(node) }),
  inPlace: (node: Node) => (node.inputs[2] ? [[0, 2]] : []),
};

/** The given rows of a matrix. */
export const selectRows = (x: Value, rows: Value): Value => apply1(selectRowsOp, [x, rows], {});
