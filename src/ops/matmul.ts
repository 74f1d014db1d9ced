import { apply1, type Node, type Value } from "../graph/graph.ts";
import type { FusedNode, Op } from "../graph/op.ts";
import { type FloatDType, GraphError } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { expectSpec, floatType, matrix, required, traffic } from "./check.ts";
import { columnSum } from "./reduce.ts";

type MatmulAttrs = {
  transA: boolean;
  transB: boolean;
  alpha: number;
  alpha2: number;
  /** Type of C and acc. */
  dtype: FloatDType;
};

/**
 * C = acc + bias + alpha·op(A)·op(B) + alpha2·op(A2)·op(B2).
 *
 * op(A) is [M,K] (stored [K,M] when `transA`), op(B) is [K,N] (stored [N,K] when `transB`). B may be stored in any weight
 * type, 4 bits included; it is decoded on the way into the product. The second pair, of the same transposition and its
 * own small depth, is how a LoRA update rides along with the frozen product: folded in by `fuse`, it costs no second pass
 * over C. Operands are multiplied in A's type (a backend may take C's where A is f32 and C has 16 bits), with f32 sums; C has a
 * type of its own (f32 gradients of bf16 activations). Inputs: A, B, acc?, bias?, A2?, B2?.
 */
export const matmulOp: Op<MatmulAttrs> = {
  name: "matmul",
  infer(inputs, { transA, transB, dtype }) {
    const a = required("matmul", "A", inputs, 0);
    const b = required("matmul", "B", inputs, 1);
    const [m, k] = oriented("A", a, transA);
    const [kb, n] = oriented("B", b, transB);
    if (k !== kb)
      throw new GraphError(`matmul: inner sizes differ: ${a}${transA ? "ᵀ" : ""} · ${b}${transB ? "ᵀ" : ""}`);
    const shape = a.shape.length === 1 && !transA ? [n] : [m, n];
    if (inputs[2]) expectSpec("matmul", "acc", inputs[2], dtype, shape);
    if (inputs[3]) expectSpec("matmul", "bias", inputs[3], "f32", [n]);
    return [{ dtype, shape }];
  },
  vjp(ctx) {
    const { transA, transB, alpha } = ctx.attrs;
    const [a, b, , , a2] = ctx.node.inputs as [Value, Value, ...(Value | null)[]];
    if (a2) throw new GraphError("matmul: differentiate before fusing, not after");
    const dc = ctx.grad(0)!;
    // The residual first: when it is also A, A's own part then adds to dC in the product rather than in a pass of its own.
    ctx.give(2, (acc) => accumulate(acc, dc));
    ctx.give(3, (acc) => columnSum(dc, { acc }));
    // C = op(A)·op(B): dA = dC·op(B)ᵀ and dB = op(A)ᵀ·dC, each transposed once more where the operand is stored so.
    ctx.give(0, (acc) =>
      transA
        ? matmul(b, dc, { transA: transB, transB: true, alpha, acc, dtype: typeOf(a) })
        : matmul(dc, b, { transB: !transB, alpha, acc, dtype: typeOf(a) }),
    );
    ctx.give(1, (acc) =>
      transB
        ? matmul(dc, a, { transA: true, transB: transA, alpha, acc, dtype: typeOf(b) })
        : matmul(a, dc, { transA: !transA, alpha, acc, dtype: typeOf(b) }),
    );
  },
  cost(node) {
    const [m, n] = matrix("matmul", "C", node.outputs[0]!);
    const depth = depths(node);
    return { flops: 2 * m * n * (depth[0] + depth[1]), bytes: traffic(node) };
  },
  inPlace: (node) => (node.inputs[2] ? [[0, 2]] : []),
  placeMatters: true,
  fuse: foldSecondProduct,
};

export interface MatmulOptions {
  transA?: boolean;
  transB?: boolean;
  alpha?: number;
  /** Added to the product; its memory is reused when it is not needed afterwards. */
  acc?: Value | null;
  /** [N], added to every row. */
  bias?: Value | null;
  /** Type of the result; that of acc or else of A when left out. */
  dtype?: FloatDType;
}

/** alpha·op(A)·op(B) + acc + bias. */
export function matmul(a: Value, b: Value, options: MatmulOptions = {}): Value {
  const { transA = false, transB = false, alpha = 1, acc = null, bias = null } = options;
  const dtype = options.dtype ?? typeOf(acc ?? a);
  return apply1(matmulOp, [a, b, acc, bias, null, null], { transA, transB, alpha, alpha2: 1, dtype });
}

/** y = x·Wᵀ + bias: a layer's projection, W stored [out, in] as every checkpoint has it. */
export function linear(x: Value, weight: Value, bias: Value | null = null, acc: Value | null = null): Value {
  return matmul(x, weight, { transB: true, bias, acc });
}

const typeOf = (value: Value): FloatDType => floatType("matmul", "A", value);

function oriented(role: string, value: Value, transposed: boolean): [number, number] {
  const [rows, cols] = matrix("matmul", role, value);
  return transposed ? [cols, rows] : [rows, cols];
}

/** Depths of the two products of a node (the second 0 when absent). */
function depths(node: Node): [number, number] {
  const depth = (index: number): number => {
    const value = node.inputs[index];
    return value ? oriented("A", value, node.attrs.transA as boolean)[1] : 0;
  };
  return [depth(0), depth(4)];
}

/** Deepest second product worth folding: beyond this it is a product of its own and packs better alone. */
const MAX_FOLDED_DEPTH = 256;

/**
 * P2 = matmul(A2, B2, acc = P1) with P1 = matmul(A1, B1, …) used nowhere else, of the same orientation: one node with two
 * products. The deeper becomes the primary; only it may have a quantised B.
 */
function foldSecondProduct(node: Node, uses: (value: Value) => number): FusedNode | null {
  const inner = node.inputs[2]?.node;
  if (!inner || inner.op.name !== "matmul" || uses(node.inputs[2]!) !== 1 || inner.phase !== node.phase) return null;
  if (node.inputs[4] || inner.inputs[4]) return null;
  if (inner.attrs.transA !== node.attrs.transA || inner.attrs.transB !== node.attrs.transB) return null;
  if (node.inputs[3] && inner.inputs[3]) return null;
  const [k, kInner] = [depths(node)[0], depths(inner)[0]];
  const [main, side] = k >= kInner ? [node, inner] : [inner, node];
  if (
    Math.min(k, kInner) > MAX_FOLDED_DEPTH ||
    side.inputs[1]!.dtype === "nf4" ||
    side.inputs[1]!.dtype === "int8" ||
    side.inputs[0]!.dtype !== main.inputs[0]!.dtype
  )
    return null;
  return {
    inputs: [
      main.inputs[0]!,
      main.inputs[1]!,
      inner.inputs[2]!,
      node.inputs[3] ?? inner.inputs[3]!,
      side.inputs[0]!,
      side.inputs[1]!,
    ],
    attrs: { ...main.attrs, alpha2: side.attrs.alpha! },
    absorbed: inner,
  };
}
