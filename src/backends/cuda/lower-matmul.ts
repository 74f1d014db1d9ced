import type { Node, Value } from "../../graph/graph.ts";
import type { FloatDType } from "../../graph/types.ts";
import { PRODUCT_OUTPUTS } from "./cublaslt.ts";
import { cType, float, int, long, pointer } from "./kernels.ts";
import { fewRows, lowerFewRows } from "./lower-few-rows.ts";
import { lowerFp8, productInFp8 } from "./lower-fp8.ts";
import { joinColumns, lowerChain, lowerGroup } from "./lower-groups.ts";
import { lowerLoraGrad } from "./lower-lora-grad.ts";
import {
  addBias,
  colsOf,
  decodeNf4,
  dense,
  floatOf,
  type Lower,
  type Lowering,
  rowsOf,
  size,
  spread,
} from "./lowering.ts";

/**
 * Type that operands are multiplied in: A's, but for an f32 A (a gradient of logits, of a head's numbers) whose product is
 * kept in 16 bits, which is a pair that the library has nothing for: C's. That rounds A as the fused loss rounds its
 * gradients of logits, and decodes B to 2 bytes an element, not 4.
 */
function multipliedIn(a: Value, c: Value): FloatDType {
  const [input, output] = [floatOf(a), floatOf(c)];
  return PRODUCT_OUTPUTS[input].includes(output) ? input : output;
}

/** C = acc + bias + alpha·op(A)·op(B) + alpha2·op(A2)·op(B2): a library product each, operands brought to one type first. */
export const LOWER_MATMUL: Readonly<Record<string, Lower>> = {
  matmul(node, to) {
    const [a, b, acc, bias, a2, b2] = node.inputs as [Value, Value, ...(Value | null)[]];
    const c = node.outputs[0]!;
    if (fewRows([node], to)) return lowerFewRows([node], to);
    if (productInFp8(to, node)) return lowerFp8([node], to);
    if (foldable(node)) return lowerFolded(node, to);
    const { transA, transB, alpha, alpha2 } = node.attrs as Record<string, number | boolean>;
    const input = multipliedIn(a, c);
    const output = floatOf(c);
    const target = to.address(c);
    let source = acc ? to.address(acc) : 0;
    if (bias) {
      addBias(to, { acc: acc ?? null, bias, out: target, n: size(c), cols: colsOf(c) }, output);
      source = target;
    }
    let beta = acc || bias ? 1 : 0;
    const multiply = (left: Value, right: Value, factor: number): void => {
      const k = transA ? rowsOf(left) : colsOf(left);
      const shape = { m: size(c) / colsOf(c), n: colsOf(c), k, transA: transA as boolean, transB: transB as boolean };
      const leading = { lda: colsOf(left), ldb: colsOf(right), ldc: colsOf(c) };
      const operands = { a: dense(to, left, input), b: dense(to, right, input) };
      const from = beta === 0 ? target : source;
      to.product({ ...shape, input, output, ...leading }, { ...operands, c: from, d: target, alpha: factor, beta });
      source = target;
      beta = 1;
    };
    multiply(a, b, alpha as number);
    if (a2) multiply(a2, b2!, alpha2 as number);
  },
  matmul_group: (node, to) => lowerGroup(node, to, LOWER_MATMUL.matmul!),
  matmul_chain: lowerChain,
  lora_grad: (node, to) => lowerLoraGrad(node, to, LOWER_MATMUL.matmul!),
};

/** Depth that a folded update gets, zeros included. */
const FOLDED_DEPTH = 64;
/** Rows from which folding is worth a copy of A. */
const FOLDED_ROWS = 1024;

/**
 * Whether the second product should be more depth of the first, [A, A2]·[[B], [s·B2]]: a copy of A with its new columns
 * beside it, instead of reading and writing C once more. So it is where C is much wider than A.
 */
function foldable(node: Node): boolean {
  const [a, b, , , a2, b2] = node.inputs;
  const { transA, alpha } = node.attrs;
  if (!a || !a2 || transA || alpha === 0 || b?.dtype !== "nf4" || b2?.dtype !== "f32") return false;
  const [k, r, n] = [colsOf(a), colsOf(a2), colsOf(node.outputs[0]!)];
  if (a.dtype === "f32" || r > FOLDED_DEPTH || k % 8 !== 0 || n % 8 !== 0) return false;
  return n >= 2 * k && rowsOf(a) >= FOLDED_ROWS;
}

function lowerFolded(node: Node, to: Lowering): void {
  const [a, b, acc, bias, a2, b2] = node.inputs as [Value, Value, Value | null, Value | null, Value, Value];
  const c = node.outputs[0]!;
  const { transB, alpha, alpha2 } = node.attrs as { transB: boolean; alpha: number; alpha2: number };
  const [m, n, k, r] = [rowsOf(a), colsOf(c), colsOf(a), colsOf(a2)];
  const input = floatOf(a);
  const depth = k + FOLDED_DEPTH;
  const left = to.scratch(2 * m * depth);
  const right = to.scratch(2 * n * depth);
  const defines = { T: cType(input) };
  joinColumns(to, a, [a2], depth, left);
  const tail = [float(alpha2 / alpha), pointer(to.address(b2))];
  decodeNf4(to, to.tensor(b), input, right, transB ? depth : 0);
  if (transB) {
    const shape = [long(n), int(k), int(0), int(r), int(depth)];
    spread(to, "lora", defines, "append_columns", n * FOLDED_DEPTH, [...shape, ...tail, pointer(right)]);
  } else {
    const rows = [long(n), int(r), int(FOLDED_DEPTH), ...tail, pointer(right + 2 * n * k)];
    spread(to, "lora", defines, "append_rows", n * FOLDED_DEPTH, rows);
  }
  const target = to.address(c);
  const output = floatOf(c);
  if (bias) addBias(to, { acc, bias, out: target, n: size(c), cols: n }, output);
  const source = acc && !bias ? to.address(acc) : target;
  to.product(
    { m, n, k: depth, transA: false, transB, input, output, lda: depth, ldb: transB ? depth : n, ldc: n },
    { a: left, b: right, c: source, d: target, alpha, beta: acc || bias ? 1 : 0 },
  );
}
