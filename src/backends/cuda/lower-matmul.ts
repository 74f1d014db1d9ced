import type { Value } from "../../graph/graph.ts";
import type { FloatDType } from "../../graph/types.ts";
import { cType, long, pointer } from "./kernels.ts";
import { colsOf, dense, floatOf, type Lower, type Lowering, rowsOf, size, spread } from "./lowering.ts";

/** C = acc + bias + alpha·op(A)·op(B) + alpha2·op(A2)·op(B2): a library product each, operands decoded to A's type first. */
export const LOWER_MATMUL: Readonly<Record<string, Lower>> = {
  matmul(node, to) {
    const [a, b, acc, bias, a2, b2] = node.inputs as [Value, Value, ...(Value | null)[]];
    const c = node.outputs[0]!;
    const { transA, transB, alpha, alpha2 } = node.attrs as Record<string, number | boolean>;
    const input = floatOf(a);
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
      const operands = { a: to.address(left), b: dense(to, right, input) };
      const from = beta === 0 ? target : source;
      to.product({ ...shape, input, output, ...leading }, { ...operands, c: from, d: target, alpha: factor, beta });
      source = target;
      beta = 1;
    };
    multiply(a, b, alpha as number);
    if (a2) multiply(a2, b2!, alpha2 as number);
  },
};

function addBias(
  to: Lowering,
  at: { acc: Value | null; bias: Value; out: number; n: number; cols: number },
  output: FloatDType,
): void {
  const type = cType(output);
  spread(to, "elementwise", { T: type, A: type, B: "float", Y: type }, "add_bias", at.n, [
    long(at.n),
    long(at.cols),
    pointer(to.address(at.acc)),
    pointer(to.address(at.bias)),
    pointer(at.out),
  ]);
}
