import type { FloatDType } from "../../graph/types.ts";

/** A tensor of a cuDNN operation graph: [batch, heads, rows, columns] with strides in elements. */
export interface GraphTensor {
  readonly uid: number;
  readonly type: FloatDType | "i32" | "bool";
  readonly dims: readonly number[];
  readonly strides: readonly number[];
  /** Lives inside the graph only. */
  readonly virtual: boolean;
  /** One number, given from host memory. */
  readonly byValue: boolean;
  /** uid of i32[batch + 1], where each sequence's rows start, in elements. */
  readonly ragged?: number;
}

/** An operation on tensors, by uid. */
export type GraphOp =
  | { kind: "matmul"; a: number; b: number; c: number; m?: number; n?: number; k?: number }
  | { kind: "pointwise"; mode: Pointwise; x: number; b?: number; t?: number; y: number; type: Math; axis?: number }
  | { kind: "reduction"; mode: "add" | "max"; x: number; y: number }
  | { kind: "reshape"; x: number; y: number };

export type Pointwise =
  | "add" | "mul" | "div" | "sub" | "exp" | "log" | "ge" | "lt" | "and" | "index" | "select"; // biome-ignore format: one list
type Math = "f32" | "i32" | "bool";

export interface OperationGraph {
  readonly tensors: readonly GraphTensor[];
  readonly ops: readonly GraphOp[];
}

/** Uids of what a graph is given from outside. */
export const UID = {
  q: 1,
  k: 2,
  v: 3,
  o: 4,
  lse: 5,
  dout: 6,
  dq: 7,
  dk: 8,
  dv: 9,
  /** f32 scratch [batch, heads, length]: Σ do·o. */
  delta: 10,
  /** i32[batch]: lengths of sequences. */
  lengths: 11,
  /** i32[batch + 1]: where sequences start, in elements of q, of k, and of lse. */
  queryStarts: 12,
  keyStarts: 13,
  tokenStarts: 14,
  /** Numbers from the host. */
  scale: 20,
  one: 21,
  minusInfinity: 22,
} as const;

/** Causal attention over `batch` sequences of up to `length` tokens, of some of a layer's heads. */
export interface SdpaShape {
  readonly dtype: "bf16" | "f16";
  readonly batch: number;
  readonly length: number;
  /** Whether lengths differ and are given by arrays. */
  readonly ragged: boolean;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Rows of the whole arrays, and their widths in elements, of which these heads may be a part. */
  readonly tokens: number;
  readonly queryWidth: number;
  readonly keyWidth: number;
}

const FIRST_INNER = 100;

/** Collects tensors and operations. */
class Builder {
  readonly tensors: GraphTensor[] = [];
  readonly ops: GraphOp[] = [];
  readonly shape: SdpaShape;
  private next = FIRST_INNER;

  constructor(shape: SdpaShape) {
    this.shape = shape;
    const { batch, ragged } = shape;
    this.scalar(UID.scale);
    if (!ragged) return;
    this.array(UID.lengths, batch);
    for (const uid of [UID.queryStarts, UID.keyStarts, UID.tokenStarts]) this.array(uid, batch + 1);
  }

  private add(tensor: Omit<GraphTensor, "virtual" | "byValue"> & Partial<GraphTensor>): number {
    this.tensors.push({ virtual: false, byValue: false, ...tensor });
    return tensor.uid;
  }

  scalar(uid: number): number {
    return this.add({ uid, type: "f32", dims: [1, 1, 1, 1], strides: [1, 1, 1, 1], byValue: true });
  }

  private array(uid: number, length: number): void {
    this.add({ uid, type: "i32", dims: [length, 1, 1, 1], strides: [1, 1, 1, 1] });
  }

  /** [batch, heads, length, headDim] in rows of all heads; `transposed`: its last two dimensions exchanged. */
  rows(uid: number, of: "query" | "key", transposed = false): number {
    const { dtype, batch, length, headDim, ragged, heads, kvHeads, queryWidth, keyWidth } = this.shape;
    const [count, width, starts] =
      of === "query" ? [heads, queryWidth, UID.queryStarts] : [kvHeads, keyWidth, UID.keyStarts];
    const dims = transposed ? [batch, count, headDim, length] : [batch, count, length, headDim];
    const strides = transposed ? [length * width, headDim, 1, width] : [length * width, headDim, width, 1];
    return this.add({ uid, type: dtype, dims, strides, ...(ragged ? { ragged: starts } : {}) });
  }

  /** k with its dimensions as the rows have them, a view of the transposed one. */
  keyRows(): number {
    const { batch, kvHeads, length, headDim, keyWidth, ragged } = this.shape;
    const dims = [batch, kvHeads, length, headDim];
    const strides = [length * keyWidth, headDim, keyWidth, 1];
    const starts = ragged ? { ragged: UID.keyStarts } : {};
    return this.add({ uid: this.next++, type: "f32", dims, strides, virtual: true, ...starts });
  }

  /** The log-sum-exp, [batch, heads, length, 1] in f32[heads, tokens]. */
  lse(): number {
    const { batch, heads, length, tokens, ragged } = this.shape;
    const dims = [batch, heads, length, 1];
    const starts = ragged ? { ragged: UID.tokenStarts } : {};
    return this.add({ uid: UID.lse, type: "f32", dims, strides: [length, tokens, 1, 1], ...starts });
  }

  /** A dense [batch, heads, rows, columns] array; inside the graph unless it has a uid. */
  dense(type: GraphTensor["type"], heads: number, rows: number, columns: number, uid?: number): number {
    const { batch } = this.shape;
    const strides = [heads * rows * columns, rows * columns, columns, 1];
    const dims = [batch, heads, rows, columns];
    return this.add({ uid: uid ?? this.next++, type, dims, strides, virtual: uid === undefined });
  }

  /** One number for each pair of a query and a key; `transposed`: queries last, in the same memory. */
  pairs(type: GraphTensor["type"] = "f32", transposed = false): number {
    const { heads, length, batch } = this.shape;
    if (!transposed) return this.dense(type, heads, length, length);
    const strides = [heads * length * length, length * length, 1, length];
    return this.add({ uid: this.next++, type, dims: [batch, heads, length, length], strides, virtual: true });
  }

  /** One number for each query. */
  perQuery(): number {
    return this.dense("f32", this.shape.heads, this.shape.length, 1);
  }

  matmul(a: number, b: number, c: number, sides: string): number {
    const op: GraphOp = { kind: "matmul", a, b, c };
    if (this.shape.ragged) for (const side of sides) Object.assign(op, { [side]: UID.lengths });
    this.ops.push(op);
    return c;
  }

  pointwise(mode: Pointwise, inputs: { x: number; b?: number; t?: number }, y: number, type: Math = "f32"): number {
    this.ops.push({ kind: "pointwise", mode, ...inputs, y, type });
    return y;
  }

  reduce(mode: "add" | "max", x: number, y: number): number {
    this.ops.push({ kind: "reduction", mode, x, y });
    return y;
  }

  reshape(x: number, y: number): number {
    this.ops.push({ kind: "reshape", x, y });
    return y;
  }

  private index(x: number, axis: number, type: Math): number {
    const y = this.pairs("i32");
    this.ops.push({ kind: "pointwise", mode: "index", x, y, type, axis });
    return y;
  }

  private select(x: number, keep: number): number {
    const constants = this.tensors.filter(({ uid }) => uid >= UID.minusInfinity && uid < FIRST_INNER).length;
    const b = this.scalar(UID.minusInfinity + constants);
    return this.pointwise("select", { x, b, t: keep }, this.pairs());
  }

  /** Logits where both query and key are inside their sequence, −∞ elsewhere; nothing to do for equal lengths. */
  inside(x: number): number {
    if (!this.shape.ragged) return x;
    const rows = this.index(x, 2, "i32");
    const columns = this.index(x, 3, "i32");
    const less = (index: number): number =>
      this.pointwise("lt", { x: index, b: UID.lengths }, this.pairs("bool"), "bool");
    const both = this.pointwise("and", { x: less(rows), b: less(columns) }, this.pairs("bool"), "bool");
    return this.select(x, both);
  }

  /** Logits of keys up to the query, −∞ elsewhere. */
  causal(x: number): number {
    const rows = this.index(x, 2, "f32");
    const columns = this.index(x, 3, "f32");
    return this.select(x, this.pointwise("ge", { x: rows, b: columns }, this.pairs("bool"), "bool"));
  }

  scaled(x: number): number {
    return this.pointwise("mul", { x, b: UID.scale }, this.pairs());
  }

  get graph(): OperationGraph {
    return { tensors: this.tensors, ops: this.ops };
  }
}

/**
 * o = softmax(scale·q·kᵀ)·v and lse, as the operations that cuDNN knows as its fused attention ("Fused flash attention
 * fprop", cuDNN developer guide). The guide takes k transposed.
 */
export function sdpaForward(shape: SdpaShape): OperationGraph {
  const g = new Builder(shape);
  const [q, k, v] = [g.rows(UID.q, "query"), g.rows(UID.k, "key", true), g.rows(UID.v, "key")];
  const logits = g.causal(g.inside(g.scaled(g.matmul(q, k, g.pairs(), "mn"))));
  const max = g.reduce("max", logits, g.perQuery());
  const exp = g.pointwise("exp", { x: g.pointwise("sub", { x: logits, b: max }, g.pairs()) }, g.pairs());
  const sum = g.reduce("add", exp, g.perQuery());
  g.pointwise("add", { x: max, b: g.pointwise("log", { x: sum }, g.perQuery()) }, g.lse());
  const p = g.pointwise("div", { x: exp, b: sum }, g.pairs(shape.dtype));
  g.matmul(p, v, g.rows(UID.o, "query"), "mk");
  return g.graph;
}

/**
 * dq, dk and dv from do, o and lse ("Fused flash attention bprop"; k and v transposed). dq is a product of its own over the
 * stored dS, 2 bytes a pair, rather than a sum with atomics: so results do not depend on timing.
 */
export function sdpaBackward(shape: SdpaShape): OperationGraph {
  const g = new Builder(shape);
  const { heads, kvHeads, length, headDim, dtype } = shape;
  const [q, k, v] = [g.rows(UID.q, "query"), g.rows(UID.k, "key", true), g.rows(UID.v, "key", true)];
  const [o, dout, lse] = [g.rows(UID.o, "query"), g.rows(UID.dout, "query"), g.lse()];
  const product = g.pointwise("mul", { x: dout, b: o }, g.dense("f32", heads, length, headDim));
  const rowSum = g.reduce("add", product, g.perQuery());
  const delta = g.dense("f32", heads, length, 1, UID.delta);
  g.pointwise("mul", { x: rowSum, b: g.scalar(UID.one) }, delta);

  const logits = g.inside(g.scaled(g.matmul(q, k, g.pairs(), "mn")));
  const shifted = g.causal(g.pointwise("sub", { x: logits, b: lse }, g.pairs()));
  const p = g.pointwise("exp", { x: shifted }, g.pairs());
  /** Of each query head, summed over the query heads that share a key head. */
  const keyGradient = (left: number, right: number, out: number): void => {
    const target = g.rows(out, "key");
    if (heads === kvHeads) g.matmul(left, right, target, "mk");
    else g.reduce("add", g.matmul(left, right, g.dense(dtype, heads, length, headDim), "mk"), target);
  };
  keyGradient(g.reshape(p, g.pairs(dtype, true)), dout, UID.dv);

  const dp = g.pointwise("sub", { x: g.matmul(dout, v, g.pairs(), "mn"), b: delta }, g.pairs());
  const ds = g.scaled(g.pointwise("mul", { x: dp, b: p }, g.pairs()));
  keyGradient(g.reshape(ds, g.pairs(dtype, true)), q, UID.dk);
  g.matmul(ds, g.reshape(k, g.keyRows()), g.rows(UID.dq, "query"), "mk");
  return g.graph;
}
