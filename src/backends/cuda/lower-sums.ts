import type { Value } from "../../graph/graph.ts";
import { float, long, pointer } from "./kernels.ts";
import { colsOf, type Lower, type Lowering, number, padded, rowsOf, rowThreads, size, typed } from "./lowering.ts";

const THREADS = 256;
/** Parts that a sum over everything is made of, at most. */
const MAX_PARTS = 512;
/** Rows of a column sum's part. */
const PART_ROWS = 128;

const partsOf = (n: number): number => Math.max(1, Math.min(MAX_PARTS, Math.ceil(n / (THREADS * 8))));

/** out = factor·Σ x. */
function total(to: Lowering, x: Value, factor: number, out: number): void {
  const parts = partsOf(size(x));
  const partial = to.scratch(8 * parts);
  to.launch({
    file: "reduce",
    defines: typed(x),
    kernel: "total_partial",
    grid: [parts],
    threads: THREADS,
    args: [long(size(x)), pointer(to.address(x)), pointer(partial)],
  });
  totalOf(to, parts, factor, partial, out);
}

function totalOf(to: Lowering, parts: number, factor: number, partial: number, out: number): void {
  to.launch({
    file: "reduce",
    defines: { T: "float" },
    kernel: "total_final",
    grid: [1],
    threads: 1024,
    args: [long(parts), float(factor), pointer(partial), pointer(out)],
  });
}

/** Arrays that one launch of squares_partial takes (MANY of reduce.cu). */
const MANY = 120;

/** out = Σ x² over arrays of one type. */
function totalSquares(to: Lowering, arrays: readonly Value[], out: number): void {
  const counts = arrays.map((x) => partsOf(size(x)));
  const parts = counts.reduce((sum, count) => sum + count, 0);
  const partial = to.scratch(8 * parts);
  let done = 0;
  for (let from = 0; from < arrays.length; from += MANY) {
    const some = arrays.slice(from, from + MANY);
    let blocks = 0;
    const first = some.map((_, i) => {
      blocks += i > 0 ? counts[from + i - 1]! : 0;
      return blocks;
    });
    blocks += counts[from + some.length - 1]!;
    to.launch({
      file: "reduce",
      defines: typed(some[0]!),
      kernel: "squares_partial",
      grid: [blocks],
      threads: THREADS,
      args: [
        ...padded(MANY, some.map((x) => pointer(to.address(x)))),
        ...padded(MANY, some.map((x) => long(size(x)))),
        ...padded(MANY + 1, [...first, blocks].map(long)),
        long(some.length), pointer(partial + 8 * done),
      ],
    }); // biome-ignore format: in the groups of the kernel's signature
    done += blocks;
  }
  totalOf(to, parts, 1, partial, out);
}

/** y = acc + alpha·Σ_part partial, the second half of a column sum. */
function columnTotal(
  to: Lowering,
  parts: number,
  cols: number,
  alpha: number,
  partial: number,
  acc: number,
  y: number,
): void {
  to.launch({
    file: "reduce",
    defines: { T: "float" },
    kernel: "column_total",
    grid: [Math.ceil(cols / THREADS)],
    threads: THREADS,
    args: [long(parts), long(cols), float(alpha), pointer(partial), pointer(acc), pointer(y)],
  });
}

/** y[cols] = acc + alpha·Σ_rows x, x at an address with rows of `pitch` elements: also the loss's bias gradient. */
export function columnSum(
  to: Lowering,
  x: { address: number; type: string; rows: number; cols: number; pitch?: number },
  alpha: number,
  acc: number,
  y: number,
): void {
  const parts = Math.ceil(x.rows / PART_ROWS);
  const partial = to.scratch(4 * parts * x.cols);
  to.launch({
    file: "reduce",
    defines: { T: x.type },
    kernel: "column_partial",
    grid: [Math.ceil(x.cols / THREADS), parts],
    threads: THREADS,
    args: [long(x.rows), long(x.cols), long(x.pitch ?? x.cols), long(PART_ROWS), pointer(x.address), pointer(partial)],
  });
  columnTotal(to, parts, x.cols, alpha, partial, acc, y);
}

/** Norms and sums. */
export const LOWER_SUMS: Readonly<Record<string, Lower>> = {
  rms_norm(node, to) {
    const [x, w, residual] = node.inputs as [Value, Value, Value | null];
    const d = size(w);
    const { eps, offset } = node.attrs as { eps: number; offset: number };
    const tail = [residual, node.outputs[0]].map((value) => pointer(to.address(value)));
    const V = d % 8 === 0 ? 8 : 1;
    to.launch({
      file: "norm",
      defines: { ...typed(x), V },
      kernel: "rms_norm",
      grid: [size(x) / d],
      threads: rowThreads(d, V),
      args: [long(d), pointer(to.address(x)), pointer(to.address(w)), float(eps), float(offset), ...tail],
    });
  },
  rms_norm_grad(node, to) {
    const [dy, x, w, acc] = node.inputs as [Value, Value, Value, Value | null];
    const d = size(w);
    const { eps, offset } = node.attrs as { eps: number; offset: number };
    const head = [dy, x, w].map((value) => pointer(to.address(value)));
    const tail = [acc, node.outputs[0]].map((value) => pointer(to.address(value)));
    const V = d % 8 === 0 ? 8 : 1;
    to.launch({
      file: "norm",
      defines: { ...typed(x), V },
      kernel: "rms_norm_grad",
      grid: [size(x) / d],
      threads: rowThreads(d, V),
      args: [long(d), ...head, float(eps), float(offset), ...tail],
    });
  },
  rms_norm_grad_weight(node, to) {
    const [dy, x, acc] = node.inputs as [Value, Value, Value | null];
    const d = number(node, "d");
    const rows = size(x) / d;
    const parts = Math.ceil(rows / PART_ROWS);
    const rstd = to.scratch(4 * rows);
    const partial = to.scratch(4 * parts * d);
    const defines = { ...typed(x), V: 1 };
    to.launch({
      file: "norm",
      defines,
      kernel: "rms_rstd",
      grid: [rows],
      threads: rowThreads(d),
      args: [long(d), pointer(to.address(x)), float(number(node, "eps")), pointer(rstd)],
    });
    const pointers = [to.address(dy), to.address(x), rstd, partial].map(pointer);
    to.launch({
      file: "norm",
      defines,
      kernel: "rms_weight_partial",
      grid: [Math.ceil(d / THREADS), parts],
      threads: THREADS,
      args: [long(rows), long(d), long(PART_ROWS), ...pointers],
    });
    columnTotal(to, parts, d, 1, partial, to.address(acc), to.address(node.outputs[0]));
  },
  reduce(node, to) {
    const x = node.inputs[0]!;
    const y = to.address(node.outputs[0]);
    const mean = node.attrs.kind === "mean";
    if (node.attrs.axis === "all") return total(to, x, mean ? 1 / size(x) : 1, y);
    to.launch({
      file: "reduce",
      defines: typed(x),
      kernel: "reduce_rows",
      grid: [rowsOf(x)],
      threads: rowThreads(colsOf(x)),
      args: [long(colsOf(x)), float(mean ? 1 / colsOf(x) : 1), pointer(to.address(x)), pointer(y)],
    });
  },
  column_sum(node, to) {
    const x = node.inputs[0]!;
    const matrix = { address: to.address(x), type: typed(x).T as string, rows: rowsOf(x), cols: colsOf(x) };
    columnSum(to, matrix, number(node, "alpha"), to.address(node.inputs[1]), to.address(node.outputs[0]));
  },
  sum_squares(node, to) {
    totalSquares(to, node.inputs as Value[], to.address(node.outputs[0]));
  },
  clip_factor(node, to) {
    const args = [...node.inputs, ...node.outputs].map((value) => pointer(to.address(value)));
    to.launch({ file: "reduce", defines: { T: "float" }, kernel: "clip_factor", grid: [1], threads: 1, args });
  },
};
