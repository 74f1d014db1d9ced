import { apply1, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { GraphError, numel, type TensorSpec } from "../graph/types.ts";
import { accumulate } from "./add.ts";
import { cast } from "./cast.ts";
import { floatType, matrix, required, traffic } from "./check.ts";
import { columnSum, sum, sumRows } from "./reduce.ts";

/** y = f(x), elementwise; `c` is the parameter of scale, shift, softcap, atLeast and atMost. */
export const UNARY_KINDS = [
  "neg",
  "exp",
  "log",
  "sigmoid",
  "logSigmoid",
  "relu",
  "tanh",
  "sqrt",
  "abs",
  "square",
  "reciprocal",
  "silu",
  "geluTanh",
  "gelu",
  "scale",
  "shift",
  "softcap",
  "atLeast",
  "atMost",
  "log1mexp",
  "rsqrt",
  "sign",
] as const;
export type UnaryKind = (typeof UNARY_KINDS)[number];

const spec = (op: string, role: string, inputs: readonly (Value | null)[], index: number): TensorSpec => {
  const value = required(op, role, inputs, index);
  return { dtype: floatType(op, role, value), shape: value.shape };
};

/** Elementwise function of one value. */
export const unaryOp: Op<{ kind: UnaryKind; c: number }> = {
  name: "unary",
  infer: (inputs) => [spec("unary", "x", inputs, 0)],
  vjp(ctx) {
    const { kind, c } = ctx.attrs;
    ctx.give(0, (acc) => {
      const dy = ctx.grad(0)!;
      if (kind === "scale") return accumulate(acc, scale(dy, c));
      if (kind === "neg") return accumulate(acc, scale(dy, -1));
      if (kind === "shift") return accumulate(acc, dy);
      return accumulate(acc, apply1(unaryGradOp, [ctx.node.inputs[0]!, ctx.node.outputs[0]!, dy], ctx.attrs));
    });
  },
  cost: (node) => ({ flops: 4 * numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: () => [[0, 0]],
};

/** dx = dy·f'(x). Inputs: x, y = f(x), dy. */
export const unaryGradOp: Op<{ kind: UnaryKind; c: number }> = {
  name: "unary_grad",
  infer: (inputs) => [spec("unary_grad", "dy", inputs, 2)],
  cost: (node) => ({ flops: 6 * numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: () => [[0, 2]],
};

/** Elementwise function of one value, by name. */
export const unary = (kind: UnaryKind, x: Value, c = 0): Value => apply1(unaryOp, [x], { kind, c });
/** c·x */
export const scale = (x: Value, c: number): Value => unary("scale", x, c);

export const BINARY_KINDS = ["add", "sub", "mul", "div", "max", "min", "greater", "equal"] as const;
export type BinaryKind = (typeof BINARY_KINDS)[number];

/** How an operand spreads over the result: whole, one row for all, one column for all, one number. */
export type Spread = "full" | "row" | "column" | "scalar";

/**
 * a∘b elementwise; each operand is full, a row [cols], a column [rows] or a scalar [1] (the `aSpread`, `bSpread`
 * attributes). The result has the type of the first full operand.
 */
export const binaryOp: Op<{ kind: BinaryKind; aSpread: Spread; bSpread: Spread }> = {
  name: "binary",
  infer(inputs, { aSpread, bSpread, kind }) {
    const a = spec("binary", "a", inputs, 0);
    const b = spec("binary", "b", inputs, 1);
    const whole = aSpread === "full" ? a : bSpread === "full" ? b : null;
    if (!whole)
      throw new GraphError(`${kind}: one operand must have the result's shape, found ${inputs[0]} and ${inputs[1]}`);
    return [whole];
  },
  vjp(ctx) {
    const [a, b] = ctx.node.inputs as [Value, Value];
    const { kind, aSpread, bSpread } = ctx.attrs;
    const dy = ctx.grad(0)!;
    const y = ctx.node.outputs[0]!;
    ctx.give(0, (acc) => accumulate(acc, cast(collapse(partial(kind, "a", a, b, y, dy), aSpread, a), a.dtype)));
    ctx.give(1, (acc) => accumulate(acc, cast(collapse(partial(kind, "b", a, b, y, dy), bSpread, b), b.dtype)));
  },
  cost: (node) => ({ flops: numel(node.outputs[0]!.shape), bytes: traffic(node) }),
  inPlace: (node) => {
    const pairs: [number, number][] = [];
    if (node.attrs.aSpread === "full") pairs.push([0, 0]);
    if (node.attrs.bSpread === "full") pairs.push([0, 1]);
    return pairs;
  },
};

function partial(kind: BinaryKind, side: "a" | "b", a: Value, b: Value, y: Value, dy: Value): Value {
  switch (kind) {
    case "add":
      return dy;
    case "sub":
      return side === "a" ? dy : scale(dy, -1);
    case "mul":
      return binary("mul", dy, side === "a" ? b : a);
    case "div":
      return side === "a" ? binary("div", dy, b) : scale(binary("mul", dy, binary("div", y, b)), -1);
    case "max":
    case "min": {
      // Where the operands tie the gradient goes to b, so that it is counted once.
      const aWins = kind === "max" ? binary("greater", a, b) : binary("greater", b, a);
      return binary("mul", dy, side === "a" ? aWins : unary("shift", scale(aWins, -1), 1));
    }
    default:
      throw new GraphError(`${kind} has no derivative`);
  }
}

function collapse(full: Value, spread: Spread, target: Value): Value {
  if (spread === "full" || full.shape.join() === target.shape.join()) return full;
  return spread === "row" ? columnSum(full) : spread === "column" ? sumRows(full) : sum(full);
}

/** a∘b with spreading chosen by shape: equal, [1], [cols] or [rows] against [rows, cols] (a vector of cols wins a tie). */
export function binary(kind: BinaryKind, a: Value, b: Value): Value {
  const whole = numel(a.shape) >= numel(b.shape) ? a : b;
  return apply1(binaryOp, [a, b], { kind, aSpread: spreadOf(kind, a, whole), bSpread: spreadOf(kind, b, whole) });
}

function spreadOf(kind: string, value: Value, whole: Value): Spread {
  if (value.shape.join() === whole.shape.join()) return "full";
  if (numel(value.shape) === 1) return "scalar";
  const [rows, cols] = matrix(kind, "operand", whole);
  if (value.shape.length === 1 && value.shape[0] === cols) return "row";
  if (value.shape.length === 1 && value.shape[0] === rows) return "column";
  throw new GraphError(`${kind}: shapes ${value} and ${whole} do not combine`);
}

/** `small` spread to the shape of `like`. */
export function expandTo(small: Value, like: Value, spread: "row" | "column" | "scalar"): Value {
  // 0·like + small would turn an infinity of `like` into NaN; "equal" is 0 or 1 for every finite or infinite input.
  const zeros = scale(binary("equal", like, like), 0);
  return apply1(binaryOp, [zeros, small], { kind: "add", aSpread: "full", bSpread: spread });
}

export const sub = (a: Value, b: Value): Value => binary("sub", a, b);
export const mul = (a: Value, b: Value): Value => binary("mul", a, b);
export const div = (a: Value, b: Value): Value => binary("div", a, b);
export const exp = (x: Value): Value => unary("exp", x);
export const log = (x: Value): Value => unary("log", x);
export const neg = (x: Value): Value => unary("neg", x);
export const sigmoid = (x: Value): Value => unary("sigmoid", x);
export const logSigmoid = (x: Value): Value => unary("logSigmoid", x);
export const relu = (x: Value): Value => unary("relu", x);
export const tanh = (x: Value): Value => unary("tanh", x);

/** The number `value` as an [1] value of the graph. */
export const constantOp: Op<{ value: number }> = {
  name: "constant",
  infer: () => [{ dtype: "f32", shape: [1] }],
  cost: () => ({ flops: 0, bytes: 4 }),
};

/** Whether a value is the literal constant `number`. */
export function isConstant(value: Value, number: number): boolean {
  return value.node?.op.name === "constant" && value.node.attrs.value === number;
}
