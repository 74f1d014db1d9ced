import type { Graph, Value } from "../graph/graph.ts";
import { apply1 } from "../graph/graph.ts";
import type { FloatDType } from "../graph/types.ts";
import { add } from "../ops/add.ts";
import { cast } from "../ops/cast.ts";
import { detach } from "../ops/detach.ts";
import { binary, binaryOp, div, mul, sub, unary } from "../ops/elementwise.ts";
import { embedding } from "../ops/embedding.ts";
import { linear, matmul } from "../ops/matmul.ts";
import { columnSum } from "../ops/reduce.ts";
import type { LoraPair, TokenRows } from "./adapter.ts";

/** A linear module with what is computed around it: acc + x·Wᵀ + bias, in `dtype`. */
export interface LinearModule {
  readonly x: Value;
  readonly weight: Value;
  readonly bias: Value | null;
  readonly acc: Value | null;
  readonly dtype: FloatDType;
}

/** The module's output, with its low-rank update if it has one. `drop` is dropout on the update's input. */
export function loraLinear(
  graph: Graph,
  module: LinearModule,
  lora: LoraPair | undefined,
  drop: (x: Value, p: number) => Value,
): Value {
  const { x, weight, bias, acc, dtype } = module;
  if (lora?.dora) return doraLinear(graph, module, lora, drop(x, lora.dropout));
  const y = matmul(x, weight, { transB: true, bias, acc, dtype });
  if (!lora) return y;
  const low = linear(drop(x, lora.dropout), right(graph, lora));
  return matmul(low, graph.use(lora.b), { transB: true, alpha: lora.scale, acc: y, dtype });
}

/** Token vectors with their low-rank update: emb[ids] + scale·A[:, ids]ᵀ·Bᵀ, inside what Gemma scales, as PEFT has it. */
export function loraEmbedding(
  graph: Graph,
  { table, ids, scale, dtype }: { table: Value; ids: Value; scale: number; dtype: FloatDType },
  lora: LoraPair | undefined,
): Value {
  const base = embedding(table, ids, { scale, dtype });
  if (!lora) return base;
  const low = embedding(graph.use(lora.a), ids, { transposed: true, dtype });
  const update = matmul(low, graph.use(lora.b), { transB: true, alpha: lora.scale * scale });
  const y = add(base, update);
  return lora.dora ? mul(y, directionScale(graph, lora, table, "columns", dtype)) : y;
}

/** Token vectors with trained rows in the place of the table's: y + scale·onehot(ids)·(rows − originals). */
export function withTokenRows(
  graph: Graph,
  y: Value,
  { ids, scale, dtype }: { ids: Value; scale: number; dtype: FloatDType },
  tokens: TokenRows | undefined,
): Value {
  if (!tokens) return y;
  const which = embedding(graph.use(tokens.oneHot), ids, { transposed: true, dtype });
  return matmul(which, sub(graph.use(tokens.rows), graph.use(tokens.originals)), { alpha: scale, acc: y, dtype });
}

/** A head's logits with those of trained rows: y + (x·(rows − originals)ᵀ)·onehot. */
export function withTokenLogits(graph: Graph, y: Value, x: Value, tokens: TokenRows | undefined): Value {
  if (!tokens) return y;
  const low = matmul(x, sub(graph.use(tokens.rows), graph.use(tokens.originals)), { transB: true, dtype: "f32" });
  return matmul(low, graph.use(tokens.oneHot), { acc: y, dtype: "f32" });
}

/** A, or AdaLoRA's diag(E)·A. */
function right(graph: Graph, { a, e }: LoraPair): Value {
  if (!e) return graph.use(a);
  return apply1(binaryOp, [graph.use(a), graph.use(e)], { kind: "mul", aSpread: "full", bSpread: "column" });
}

/**
 * DoRA (Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024): y = acc + bias + c∘(x·(W + s·B·A)ᵀ), c the trained
 * magnitudes over the rows' lengths. With dropout PEFT drops x on the way into all but the base's own W·x.
 */
function doraLinear(graph: Graph, module: LinearModule, lora: LoraPair, dropped: Value): Value {
  const { x, weight, bias, acc, dtype } = module;
  const low = linear(dropped, graph.use(lora.a));
  const base = matmul(dropped, weight, { transB: true, dtype });
  const both = matmul(low, graph.use(lora.b), { transB: true, alpha: lora.scale, acc: base, dtype });
  const y = mul(both, directionScale(graph, lora, weight, "rows", dtype));
  if (dropped !== x) return add(matmul(x, weight, { transB: true, bias, acc, dtype }), sub(y, base));
  const biased = bias ? binary("add", y, bias) : y;
  return acc ? add(acc, biased) : biased;
}

/**
 * magnitude / ‖W + s·B·A‖ over rows (columns, for an embedding's table), f32[out]. The length is a constant to the
 * derivative (section 4.3 of the paper), and W + s·B·A is never made: with Q = 2·W·Aᵀ + s·B·(A·Aᵀ), its squared length is
 * ‖W‖² + s·Σ_r B∘Q.
 */
function directionScale(
  graph: Graph,
  { a, b, scale, dora }: LoraPair,
  weight: Value,
  along: "rows" | "columns",
  dtype: FloatDType,
): Value {
  if ("factors" in dora!) return graph.use(dora.factors);
  const { magnitude, squares, identity } = dora!;
  const [A, B] = [graph.use(a), graph.use(b)];
  // All transposed, [r, out]: a 4-bit weight can only be a product's right operand.
  const cross = matmul(cast(A, dtype), weight, { transB: along === "rows", alpha: 2, dtype: "f32" });
  const q = matmul(matmul(A, A, { transB: true }), B, { transB: true, alpha: scale, acc: cross });
  const transposed = matmul(graph.use(identity), B, { transB: true });
  const squared = add(graph.use(squares), columnSum(mul(transposed, q), { alpha: scale }));
  return div(graph.use(magnitude), detach(unary("sqrt", squared)));
}
