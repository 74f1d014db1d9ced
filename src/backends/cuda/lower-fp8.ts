import type { Node, Value } from "../../graph/graph.ts";
import type { DevicePointer } from "./driver.ts";
import { cType, int, long, pointer } from "./kernels.ts";
import { addBias, colsOf, dense, denseAt, type Lowering, rowsOf, size, spread } from "./lowering.ts";

/** Rows from which a product in 8 bits pays for making its operands. */
const MANY_ROWS = 1024;
/** cuBLASLt's: every extent of a product in 8 bits is a multiple of it. */
const MULTIPLE = 16;

/** Numbers in e4m3, row after row, and a scale for each row. */
export interface Fp8Rows {
  readonly codes: DevicePointer;
  readonly scales: DevicePointer;
}

/** Whether x·W(ᵀ) is to be multiplied in 8 bits: W frozen, x many rows of bf16. */
export function inFp8(to: Lowering, x: Value, weight: Value): boolean {
  if (!to.fp8 || x.dtype !== "bf16" || rowsOf(x) < MANY_ROWS) return false;
  // A trained weight is f32, and a value that is computed is no weight.
  if (weight.kind !== "tensor" || weight.dtype === "f32" || to.tensor(weight).precise) return false;
  return [rowsOf(x), rowsOf(weight), colsOf(weight)].every((extent) => extent % MULTIPLE === 0);
}

/** The same of a whole product, with or without a low-rank part. */
export const productInFp8 = (to: Lowering, { inputs, outputs, attrs }: Node): boolean =>
  !attrs.transA && attrs.alpha === 1 && outputs[0]!.dtype === "bf16" && inFp8(to, inputs[0]!, inputs[1]!);

/** Activations [m, k] in 8 bits, a scale a token. */
export function quantizeRows(to: Lowering, x: DevicePointer, m: number, k: number, dtype = "bf16"): Fp8Rows {
  const rows = { codes: to.scratch(m * k), scales: to.scratch(4 * m) };
  to.launch({
    file: "fp8",
    defines: { T: dtype },
    kernel: "rows_e4m3",
    grid: [m],
    threads: k >= 4096 ? 256 : 128,
    args: [long(k), pointer(x), pointer(rows.codes), pointer(rows.scales)],
  });
  return rows;
}

/** Rows of W [n, k] with a scale each; or, for a product with W itself rather than Wᵀ, those of Wᵀ with one for all. */
function quantizeWeight(to: Lowering, weight: Value, transB: boolean): Fp8Rows {
  const [n, k] = [rowsOf(weight), colsOf(weight)];
  let source = to.address(weight);
  const dtype = weight.dtype === "f16" ? "f16" : "bf16";
  if (weight.dtype !== dtype) {
    source = to.scratch(2 * size(weight));
    denseAt(to, weight, dtype, source);
  }
  if (transB) return quantizeRows(to, source, n, k, cType(dtype));
  const rows = { codes: to.scratch(n * k), scales: to.scratch(4 * k) };
  const top = to.scratch(4);
  const defines = { T: cType(dtype) };
  to.clear(top, 4);
  spread(to, "fp8", defines, "absmax", size(weight) / 8, [long(size(weight)), pointer(source), pointer(top)]);
  const args = [int(n), int(k), ...[source, top, rows.codes, rows.scales].map(pointer)];
  const grid = [Math.ceil(k / 64), Math.ceil(n / 64)] as const;
  to.launch({ file: "fp8", defines, kernel: "transpose_e4m3", grid, threads: 256, args });
  return rows;
}

/** d = x·W(ᵀ) + beta·c with x in 8 bits already. */
export function multiplyInFp8(
  to: Lowering,
  x: Fp8Rows & { readonly m: number },
  weight: Value,
  transB: boolean,
  at: { c: DevicePointer; d: DevicePointer; beta: number },
): void {
  to.scoped(() => {
    const w = quantizeWeight(to, weight, transB);
    const [n, k] = transB ? [rowsOf(weight), colsOf(weight)] : [colsOf(weight), rowsOf(weight)];
    const shape = { m: x.m, n, k, transA: false, transB: true, lda: k, ldb: k, ldc: n };
    to.product(
      { ...shape, input: "e4m3", output: "bf16", fastSums: transB },
      { a: x.codes, b: w.codes, ...at, alpha: 1, scaleA: x.scales, scaleB: w.scales },
    );
  });
}

/**
 * C = acc + bias + x·W(ᵀ) + alpha2·low·B(ᵀ) of one node, or of several that share x, which is made 8 bits once. What is
 * low-rank stays in the type of the activations.
 */
export function lowerFp8(nodes: readonly Node[], to: Lowering): void {
  const x = nodes[0]!.inputs[0]!;
  const m = rowsOf(x);
  const rows = quantizeRows(to, to.address(x), m, colsOf(x));
  for (const { inputs, outputs, attrs } of nodes) {
    const [, weight, acc, bias, low, b] = inputs as [Value, Value, ...(Value | null)[]];
    const c = outputs[0]!;
    const target = to.address(c);
    const transB = attrs.transB as boolean;
    if (bias) addBias(to, { acc: acc ?? null, bias, out: target, n: size(c), cols: colsOf(c) }, "bf16");
    const source = bias ? target : to.address(acc);
    const at = { c: source || target, d: target, beta: source ? 1 : 0 };
    multiplyInFp8(to, { ...rows, m }, weight, transB, at);
    if (!low || !b) continue;
    to.scoped(() => {
      const shape = { m, n: colsOf(c), k: colsOf(low), lda: colsOf(low), ldb: colsOf(b), ldc: colsOf(c) };
      to.product(
        { ...shape, transA: false, transB, input: "bf16", output: "bf16" },
        { a: to.address(low), b: dense(to, b, "bf16"), c: target, d: target, alpha: attrs.alpha2 as number, beta: 1 },
      );
    });
  }
}
