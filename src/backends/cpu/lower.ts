import type { Node, Value } from "../../graph/graph.ts";
import { BINARY_KINDS, UNARY_KINDS } from "../../ops/elementwise.ts";
import { LOWER_LOSS } from "./lower-loss.ts";
import { colsOf, type Lower, type Lowering, number, rowsOf, size } from "./lowering.ts";
import type { KernelArgument } from "./runtime.ts";

const GLU_ACTIVATIONS = ["silu", "geluTanh", "gelu"];
const SPREADS = ["full", "row", "column", "scalar"];
const REDUCTIONS = ["sum", "mean", "max"];

/** The kernel calls of each op (argument orders: native/kernels/README.md). An op missing here cannot run on the CPU. */
export const LOWERINGS: Readonly<Record<string, Lower>> = {
  ...LOWER_LOSS,
  matmul(node, to) {
    const [a, b, acc, bias, a2, b2] = node.inputs as [
      Value,
      Value,
      Value | null,
      Value | null,
      Value | null,
      Value | null,
    ];
    const c = node.outputs[0]!;
    const { transA, transB, alpha, alpha2 } = node.attrs as Record<string, number | boolean>;
    const depth = transA ? rowsOf(a) : colsOf(a);
    const depth2 = a2 ? (transA ? rowsOf(a2) : colsOf(a2)) : 0;
    to.emit("matmul", [
      rowsOf(c), colsOf(c), depth, to.address(a), colsOf(a), transA!, ...to.weight(b), colsOf(b), transB!,
      to.address(c), colsOf(c), to.address(acc), to.address(bias), alpha!,
      depth2, to.address(a2), a2 ? colsOf(a2) : 0, to.address(b2), b2 ? colsOf(b2) : 0, alpha2!,
    ]); // biome-ignore format: in the groups of the kernel's signature
  },
  add(node, to) {
    const y = node.outputs[0]!;
    to.emit("binary", [0, 1, size(y), to.address(node.inputs[0]), 0, to.address(node.inputs[1]), 0, to.address(y)]);
  },
  embedding(node, to) {
    const [table, ids] = node.inputs as [Value, Value];
    const { transposed, scale } = node.attrs as { transposed: boolean; scale: number };
    const [d, v] = transposed ? [rowsOf(table), colsOf(table)] : [colsOf(table), rowsOf(table)];
    const out = to.address(node.outputs[0]);
    to.emit("embedding", [
      size(ids),
      d,
      v,
      ...to.weight(table),
      colsOf(table),
      transposed,
      to.address(ids),
      scale,
      out,
    ]);
  },
  embedding_grad(node, to) {
    const [dy, ids, acc] = node.inputs as [Value, Value, Value | null];
    const { transposed, scale, rows, cols } = node.attrs as {
      transposed: boolean;
      scale: number;
      rows: number;
      cols: number;
    };
    const [d, v] = transposed ? [rows, cols] : [cols, rows];
    const out = to.address(node.outputs[0]);
    to.emit("embedding_grad", [
      size(ids),
      d,
      v,
      transposed,
      to.address(dy),
      to.address(ids),
      scale,
      to.address(acc),
      out,
    ]);
  },
  select_rows(node, to) {
    const [x, rows] = node.inputs as [Value, Value];
    to.emit("select_rows", [
      size(rows),
      colsOf(x),
      rowsOf(x),
      to.address(x),
      to.address(rows),
      to.address(node.outputs[0]),
    ]);
  },
  select_rows_grad(node, to) {
    const [dy, rows, acc] = node.inputs as [Value, Value, Value | null];
    const args = [dy, rows, acc, node.outputs[0]].map((value) => to.address(value));
    to.emit("select_rows_grad", [size(rows), colsOf(dy), number(node, "rows"), ...args]);
  },
  rms_norm(node, to) {
    const [x, w, residual] = node.inputs as [Value, Value, Value | null];
    const d = size(w);
    const { eps, offset } = node.attrs as { eps: number; offset: number };
    const tail = [to.address(residual), to.address(node.outputs[0])];
    to.emit("rms_norm", [size(x) / d, d, to.address(x), to.address(w), eps, offset, ...tail]);
  },
  rms_norm_grad(node, to) {
    const [dy, x, w, acc] = node.inputs as [Value, Value, Value, Value | null];
    const d = size(w);
    const { eps, offset } = node.attrs as { eps: number; offset: number };
    const head = [dy, x, w].map((value) => to.address(value));
    to.emit("rms_norm_grad", [size(x) / d, d, ...head, eps, offset, to.address(acc), to.address(node.outputs[0])]);
  },
  rms_norm_grad_weight(node, to) {
    const [dy, x, acc] = node.inputs as [Value, Value, Value | null];
    const d = number(node, "d");
    const tail = [to.address(acc), to.address(node.outputs[0])];
    to.emit("rms_norm_grad_weight", [size(x) / d, d, to.address(dy), to.address(x), number(node, "eps"), ...tail]);
  },
  rope(node, to) {
    const [x, table, positions] = node.inputs as [Value, Value, Value];
    const { heads, headDim, inverse } = node.attrs as { heads: number; headDim: number; inverse: boolean };
    const tail = [rowsOf(table), to.address(positions), inverse, to.address(node.outputs[0])];
    to.emit("rope", [rowsOf(x), heads, headDim, colsOf(x), to.address(x), to.address(table), ...tail]);
  },
  attention(node, to) {
    to.emit("attention", [...attentionHead(node, to), ...node.outputs.map((value) => to.address(value))]);
  },
  attention_grad(node, to) {
    const saved = node.inputs.slice(5).map((value) => to.address(value));
    const grads = node.outputs.map((value) => to.address(value));
    to.emit("attention_grad", [...attentionHead(node, to), ...saved, ...grads]);
  },
  kv_write(node, to) {
    const [x, slots, cache] = node.inputs as [Value, Value, Value];
    to.emit("kv_write", [rowsOf(x), colsOf(x), to.address(x), to.address(slots), rowsOf(cache), to.address(cache)]);
  },
  attention_cached(node, to) {
    const [q, keys, values, rows, lengths] = node.inputs as Value[];
    const { heads, kvHeads, headDim, maxLength, scale, window, softcap } = node.attrs as Record<string, number>;
    const head = [
      rowsOf(q!),
      heads!,
      kvHeads!,
      headDim!,
      to.address(q),
      to.address(keys),
      to.address(values),
      maxLength!,
    ];
    const tail = [to.address(rows), to.address(lengths), scale!, window!, softcap!, to.address(node.outputs[0])];
    to.emit("attention_cached", [...head, ...tail]);
  },
  glu(node, to) {
    const pointers = [...node.inputs, ...node.outputs].map((value) => to.address(value));
    to.emit("glu", [size(node.outputs[0]!), GLU_ACTIVATIONS.indexOf(node.attrs.act as string), ...pointers]);
  },
  glu_grad(node, to) {
    const pointers = [...node.inputs, ...node.outputs].map((value) => to.address(value));
    to.emit("glu_grad", [size(node.outputs[0]!), GLU_ACTIVATIONS.indexOf(node.attrs.act as string), ...pointers]);
  },
  unary(node, to) {
    const y = node.outputs[0]!;
    const kind = UNARY_KINDS.indexOf(node.attrs.kind as (typeof UNARY_KINDS)[number]);
    to.emit("unary", [size(y), kind, number(node, "c"), to.address(node.inputs[0]), to.address(y)]);
  },
  unary_grad(node, to) {
    const kind = UNARY_KINDS.indexOf(node.attrs.kind as (typeof UNARY_KINDS)[number]);
    const pointers = [...node.inputs, ...node.outputs].map((value) => to.address(value));
    to.emit("unary_grad", [size(node.outputs[0]!), kind, number(node, "c"), ...pointers]);
  },
  binary(node, to) {
    const [a, b] = node.inputs as [Value, Value];
    const y = node.outputs[0]!;
    const kind = BINARY_KINDS.indexOf(node.attrs.kind as (typeof BINARY_KINDS)[number]);
    const [aMode, bMode] = [
      SPREADS.indexOf(node.attrs.aSpread as string),
      SPREADS.indexOf(node.attrs.bSpread as string),
    ];
    const shape = [size(y) / colsOf(y), colsOf(y)];
    to.emit("binary", [kind, ...shape, to.address(a), aMode, to.address(b), bMode, to.address(y)]);
  },
  reduce(node, to) {
    const x = node.inputs[0]!;
    const kind = REDUCTIONS.indexOf(node.attrs.kind as string);
    const axis = node.attrs.axis === "all" ? 2 : 1;
    to.emit("reduce", [kind, rowsOf(x), colsOf(x), axis, to.address(x), 0, to.address(node.outputs[0])]);
  },
  column_sum(node, to) {
    const x = node.inputs[0]!;
    const pointers = [x, node.inputs[1], node.outputs[0]].map((value) => to.address(value));
    to.emit("column_sum", [rowsOf(x), colsOf(x), number(node, "alpha"), ...pointers]);
  },
  dropout(node, to) {
    const [x, seed] = node.inputs as [Value, Value];
    const { p, salt } = node.attrs as { p: number; salt: number };
    to.emit("dropout", [size(x), p, to.address(seed), salt, to.address(x), to.address(node.outputs[0])]);
  },
  constant(node, to) {
    const y = to.address(node.outputs[0]);
    to.emit("fill", [4, 0, y]);
    to.emit("unary", [1, UNARY_KINDS.indexOf("shift"), number(node, "value"), y, y]);
  },
  sample(node, to) {
    const [logits, settings, draws, rows, seen] = node.inputs as [Value, Value, Value, Value, Value | null];
    const pointers = [logits, settings, draws, rows, seen].map((value) => to.address(value));
    const known = seen ? rowsOf(seen) : 0;
    const outputs = node.outputs.slice(0, 2).map((value) => to.address(value));
    to.emit("sample", [rowsOf(logits), colsOf(logits), ...pointers, known, ...outputs]);
  },
  clear(node, to) {
    to.emit("fill", [node.inputs[0]!.bytes, 0, to.address(node.inputs[0])]);
  },
  offload(node, to) {
    to.emit("copy", [node.inputs[0]!.bytes, to.address(node.inputs[0]), to.address(node.outputs[0])]);
  },
  fetch(node, to) {
    to.emit("copy", [node.inputs[0]!.bytes, to.address(node.inputs[0]), to.address(node.outputs[0])]);
  },
  sum_squares(node, to) {
    const out = to.address(node.outputs[0]);
    node.inputs.forEach((x, i) => {
      to.emit("sum_squares", [size(x!), to.address(x), i === 0 ? 0 : out, out]);
    });
  },
  clip_factor(node, to) {
    to.emit(
      "clip_factor",
      [...node.inputs, ...node.outputs].map((value) => to.address(value)),
    );
  },
  adamw(node, to) {
    const pointers = node.inputs.map((value) => to.address(value));
    to.emit("adamw", [size(node.inputs[0]!), ...pointers, node.attrs.decay as boolean]);
  },
  adamw8bit(node, to) {
    const pointers = node.inputs.map((value) => to.address(value));
    to.emit("adamw8bit", [size(node.inputs[0]!), ...pointers, node.attrs.decay as boolean]);
  },
};

function attentionHead(node: Node, to: Lowering): KernelArgument[] {
  const pointers = node.inputs.slice(0, 5).map((value) => to.address(value));
  const { heads, kvHeads, headDim, scale, window, softcap } = node.attrs as Record<string, number>;
  const shape = [rowsOf(node.inputs[0]!), heads!, kvHeads!, headDim!];
  return [...shape, ...pointers, scale!, window!, softcap!, node.attrs.causal as boolean];
}
