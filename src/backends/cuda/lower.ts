import type { Value } from "../../graph/graph.ts";
import { BINARY_KINDS, UNARY_KINDS } from "../../ops/elementwise.ts";
import { cType, float, int, long, pointer } from "./kernels.ts";
import { LOWER_ATTENTION } from "./lower-attention.ts";
import { fusedLowerings } from "./lower-decode.ts";
import { LOWER_LOSS } from "./lower-loss.ts";
import { LOWER_MATMUL } from "./lower-matmul.ts";
import { LOWER_SUMS } from "./lower-sums.ts";
import { LOWER_UPDATES } from "./lower-updates.ts";
import { colsOf, floatOf, type Lower, number, rowsOf, rowThreads, size, spread, typed } from "./lowering.ts";

const GLU_ACTIVATIONS = ["silu", "geluTanh", "gelu"];
const SPREADS = ["full", "row", "column", "scalar"];

const unaryKind = (kind: unknown): number => UNARY_KINDS.indexOf(kind as (typeof UNARY_KINDS)[number]);

/** The launches of each op. An op missing here cannot run on CUDA. */
export const LOWERINGS: Readonly<Record<string, Lower>> = {
  ...LOWER_MATMUL,
  ...LOWER_ATTENTION,
  ...LOWER_LOSS,
  ...LOWER_SUMS,
  ...LOWER_UPDATES,
  ...fusedLowerings((node, to) => LOWERINGS[node.op.name]!(node, to)),
  add(node, to) {
    const y = node.outputs[0]!;
    const [a, b] = node.inputs.map((value) => pointer(to.address(value)));
    spread(to, "elementwise", typed(y), "add", size(y) / 8, [long(size(y)), a!, b!, pointer(to.address(y))]);
  },
  cast(node, to) {
    const [x, y] = [node.inputs[0]!, node.outputs[0]!];
    const defines = { T: cType(floatOf(y)), A: cType(floatOf(x)), B: "float", Y: cType(floatOf(y)) };
    const pointers = [x, y].map((value) => pointer(to.address(value)));
    spread(to, "elementwise", defines, "cast", size(y), [long(size(y)), ...pointers]);
  },
  unary(node, to) {
    const y = node.outputs[0]!;
    const head = [long(size(y)), int(unaryKind(node.attrs.kind)), float(number(node, "c"))];
    const pointers = [node.inputs[0], y].map((value) => pointer(to.address(value)));
    spread(to, "elementwise", typed(y), "unary", size(y), [...head, ...pointers]);
  },
  unary_grad(node, to) {
    const [x, , dy] = node.inputs as [Value, Value, Value];
    const dx = node.outputs[0]!;
    const head = [long(size(dx)), int(unaryKind(node.attrs.kind)), float(number(node, "c"))];
    const pointers = [x, dy, dx].map((value) => pointer(to.address(value)));
    spread(to, "elementwise", typed(dx), "unary_grad", size(dx), [...head, ...pointers]);
  },
  binary(node, to) {
    const [a, b] = node.inputs as [Value, Value];
    const y = node.outputs[0]!;
    const [A, B, Y] = [a, b, y].map((value) => cType(floatOf(value)));
    const kind = BINARY_KINDS.indexOf(node.attrs.kind as (typeof BINARY_KINDS)[number]);
    const mode = (name: string) => int(SPREADS.indexOf(node.attrs[name] as string));
    spread(to, "elementwise", { T: Y!, A: A!, B: B!, Y: Y! }, "binary", size(y), [
      int(kind), long(size(y)), long(colsOf(y)), pointer(to.address(a)), mode("aSpread"),
      pointer(to.address(b)), mode("bSpread"), pointer(to.address(y)),
    ]); // biome-ignore format: in the groups of the kernel's signature
  },
  dropout(node, to) {
    const [x, seed] = node.inputs as [Value, Value];
    const { p, salt } = node.attrs as { p: number; salt: number };
    const threshold = Math.floor(p * 2 ** 32) | 0;
    const pointers = [x, node.outputs[0]].map((value) => pointer(to.address(value)));
    const head = [long(size(x)), float(1 / (1 - p)), int(threshold), pointer(to.address(seed)), long(salt)];
    spread(to, "elementwise", typed(x), "dropout", size(x) / 4, [...head, ...pointers]);
  },
  constant(node, to) {
    const y = to.address(node.outputs[0]);
    to.clear(y, 4);
    const shift = [int(unaryKind("shift")), float(number(node, "value"))];
    spread(to, "elementwise", { T: "float" }, "unary", 1, [long(1), ...shift, pointer(y), pointer(y)]);
  },
  offload: (node, to) => to.offload(node),
  fetch: (node, to) => to.fetch(node),
  copy_wait: (node, to) => to.wait(node),
  embedding(node, to) {
    const [table, ids] = node.inputs as [Value, Value];
    const out = node.outputs[0]!;
    const { transposed, scale } = node.attrs as { transposed: boolean; scale: number };
    const [d, vocab] = transposed ? [rowsOf(table), colsOf(table)] : [colsOf(table), rowsOf(table)];
    const V = !transposed && d % 8 === 0 ? 8 : 1;
    to.launch({
      file: "embedding",
      defines: { ...typed(out), W: cType(floatOf(table)), V },
      kernel: "embedding",
      grid: [size(ids)],
      threads: rowThreads(d, V),
      args: [
        long(d), long(vocab), int(transposed), pointer(to.address(table)), pointer(to.address(ids)), float(scale),
        pointer(to.address(out)),
      ],
    }); // biome-ignore format: in the groups of the kernel's signature
  },
  embedding_grad(node, to) {
    const [dy, ids, acc] = node.inputs as [Value, Value, Value | null];
    const dw = node.outputs[0]!;
    const { transposed, scale, rows, cols } = node.attrs as Record<string, number | boolean>;
    const [d, vocab] = (transposed ? [rows, cols] : [cols, rows]) as [number, number];
    if (acc) to.copy(to.address(dw), to.address(acc), dw.bytes);
    else to.clear(to.address(dw), dw.bytes);
    to.launch({
      file: "embedding",
      defines: { ...typed(dy), W: "float", V: 1 },
      kernel: "embedding_grad",
      grid: [size(ids)],
      threads: rowThreads(d),
      args: [
        long(size(ids)), long(d), long(vocab), int(transposed as boolean), pointer(to.address(dy)),
        pointer(to.address(ids)), float(scale as number), pointer(to.address(dw)),
      ],
    }); // biome-ignore format: in the groups of the kernel's signature
  },
  select_rows(node, to) {
    const [x, rows] = node.inputs as [Value, Value];
    const pointers = [x, rows, node.outputs[0]].map((value) => pointer(to.address(value)));
    to.launch({
      file: "embedding",
      defines: { ...typed(x), W: "float", V: 1 },
      kernel: "select_rows",
      grid: [size(rows)],
      threads: rowThreads(colsOf(x)),
      args: [long(colsOf(x)), long(rowsOf(x)), ...pointers],
    });
  },
  select_rows_grad(node, to) {
    const [dy, rows, acc] = node.inputs as [Value, Value, Value | null];
    const dx = node.outputs[0]!;
    if (acc) to.copy(to.address(dx), to.address(acc), dx.bytes);
    else to.clear(to.address(dx), dx.bytes);
    to.launch({
      file: "embedding",
      defines: { ...typed(dx), W: "float", V: 1 },
      kernel: "select_rows_grad",
      grid: [size(rows)],
      threads: rowThreads(colsOf(dy)),
      args: [
        long(size(rows)), long(colsOf(dy)), long(rowsOf(dx)), pointer(to.address(dy)), pointer(to.address(rows)),
        pointer(to.address(dx)),
      ],
    }); // biome-ignore format: in the groups of the kernel's signature
  },
  rope(node, to) {
    const [x, table, positions] = node.inputs as [Value, Value, Value];
    const { heads, headDim, inverse } = node.attrs as { heads: number; headDim: number; inverse: boolean };
    const V = headDim % 16 === 0 ? 8 : 1;
    spread(to, "rope", { ...typed(x), V }, "rope", size(x) / 2 / V, [
      long(rowsOf(x)), int(heads), int(headDim), pointer(to.address(x)), pointer(to.address(table)),
      int(rowsOf(table)), pointer(to.address(positions)), int(inverse), pointer(to.address(node.outputs[0])),
    ]); // biome-ignore format: in the groups of the kernel's signature
  },
  glu(node, to) {
    const h = node.outputs[0]!;
    const pointers = [...node.inputs, h].map((value) => pointer(to.address(value)));
    const head = [long(size(h)), int(GLU_ACTIVATIONS.indexOf(node.attrs.act as string))];
    spread(to, "glu", typed(h), "glu", size(h) / 8, [...head, ...pointers]);
  },
  glu_grad(node, to) {
    const dgate = node.outputs[0]!;
    const pointers = [...node.inputs, ...node.outputs].map((value) => pointer(to.address(value)));
    const head = [long(size(dgate)), int(GLU_ACTIVATIONS.indexOf(node.attrs.act as string))];
    spread(to, "glu", typed(dgate), "glu_grad", size(dgate) / 8, [...head, ...pointers]);
  },
};
