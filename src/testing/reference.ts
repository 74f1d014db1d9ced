/**
 * A float64 interpreter of graphs: each forward op as the obvious loop over its formula. Slow, simple, and what the
 * backends' results and the ops' derivatives are checked against.
 */
import type { Graph, Node, Value } from "../graph/graph.ts";
import { numel } from "../graph/types.ts";

export type Arrays = Map<Value, Float64Array>;

/** Values of `wanted`, given those of inputs and tensors. */
export function interpret(
  graph: Graph,
  given: ReadonlyMap<Value, ArrayLike<number>>,
  wanted: readonly Value[],
): Float64Array[] {
  const values: Arrays = new Map();
  for (const [value, data] of given) values.set(value, Float64Array.from(data));
  for (const node of graph.nodes) {
    if (node.phase !== "forward") continue;
    const rule = RULES[node.op.name];
    if (!rule) throw new Error(`the reference has no rule for ${node.op.name}`);
    const inputs = node.inputs.map((value) => {
      if (!value) return null;
      const data = values.get(value);
      if (!data) throw new Error(`${node.op.name}: ${value} has no data`);
      return data;
    });
    rule(node, inputs).forEach((data, i) => values.set(node.outputs[i]!, data));
  }
  return wanted.map((value) => values.get(value)!);
}

type Rule = (node: Node, inputs: (Float64Array | null)[]) => Float64Array[];
type Data = Float64Array;

const cols = (value: Value): number => value.shape[value.shape.length - 1]!;
const rows = (value: Value): number => numel(value.shape) / cols(value);
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** Error function, by its Taylor series (small |x|) or continued fraction. */
export function erf(x: number): number {
  if (Math.abs(x) < 3) {
    let [term, total] = [x, x];
    for (let n = 1; n < 80; n++) {
      term *= (-x * x) / n;
      total += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * total;
  }
  let fraction = 0;
  for (let n = 60; n >= 1; n--) fraction = n / 2 / (Math.abs(x) + fraction);
  const tail = Math.exp(-x * x) / (Math.sqrt(Math.PI) * (Math.abs(x) + fraction));
  return x > 0 ? 1 - tail : tail - 1;
}

const geluTanh = (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const gelu = (x: number): number => 0.5 * x * (1 + erf(x / Math.SQRT2));
const silu = (x: number): number => x * sigmoid(x);

const UNARY: Record<string, (x: number, c: number) => number> = {
  neg: (x) => -x,
  exp: Math.exp,
  log: Math.log,
  sigmoid,
  logSigmoid: (x) => -Math.log1p(Math.exp(-x)),
  relu: (x) => Math.max(x, 0),
  tanh: Math.tanh,
  sqrt: Math.sqrt,
  abs: Math.abs,
  square: (x) => x * x,
  reciprocal: (x) => 1 / x,
  silu,
  geluTanh,
  gelu,
  scale: (x, c) => c * x,
  shift: (x, c) => c + x,
  softcap: (x, c) => c * Math.tanh(x / c),
  atLeast: Math.max,
  atMost: Math.min,
  log1mexp: (x) => Math.log(-Math.expm1(x)),
  rsqrt: (x) => 1 / Math.sqrt(x),
  sign: Math.sign,
};

const BINARY: Record<string, (a: number, b: number) => number> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  max: Math.max,
  min: Math.min,
  greater: (a, b) => (a > b ? 1 : 0),
  equal: (a, b) => (a === b ? 1 : 0),
};

const RULES: Record<string, Rule> = {
  matmul(node, [a, b, acc, bias, a2, b2]) {
    const [va, vb, , , va2, vb2] = node.inputs as Value[];
    const out = node.outputs[0]!;
    const [m, n] = [rows(out), cols(out)];
    const c = new Float64Array(m * n);
    const { transA, transB, alpha, alpha2 } = node.attrs as {
      transA: boolean;
      transB: boolean;
      alpha: number;
      alpha2: number;
    };
    const product = (x: Data, vx: Value, y: Data, vy: Value, factor: number): void => {
      const depth = transA ? rows(vx) : cols(vx);
      for (let i = 0; i < m; i++) {
        for (let j = 0; j < n; j++) {
          let total = 0;
          for (let k = 0; k < depth; k++) {
            total +=
              x[transA ? k * cols(vx) + i : i * cols(vx) + k]! * y[transB ? j * cols(vy) + k : k * cols(vy) + j]!;
          }
          c[i * n + j]! += factor * total;
        }
      }
    };
    product(a!, va!, b!, vb!, alpha);
    if (a2) product(a2, va2!, b2!, vb2!, alpha2);
    return [c.map((x, i) => x + (acc?.[i] ?? 0) + (bias?.[i % n] ?? 0))];
  },
  cast: (_, [x]) => [x!],
  add: (_, [a, b]) => [a!.map((x, i) => x + b![i]!)],
  embedding(node, [table, ids]) {
    const { scale, transposed } = node.attrs as { scale: number; transposed: boolean };
    const out = node.outputs[0]!;
    const [d, width] = [cols(out), cols(node.inputs[0]!)];
    return [
      Float64Array.from({ length: numel(out.shape) }, (_, i) => {
        const [t, j] = [Math.floor(i / d), i % d];
        return scale * table![transposed ? j * width + ids![t]! : ids![t]! * width + j]!;
      }),
    ];
  },
  select_rows(node, [x, index]) {
    const d = cols(node.inputs[0]!);
    return [
      Float64Array.from({ length: index!.length * d }, (_, i) => {
        const row = index![Math.floor(i / d)]!;
        return row < 0 ? 0 : x![row * d + (i % d)]!;
      }),
    ];
  },
  rms_norm(node, [x, w, residual]) {
    const { eps, offset } = node.attrs as { eps: number; offset: number };
    const d = w!.length;
    const y = new Float64Array(x!.length);
    for (let start = 0; start < x!.length; start += d) {
      let squares = 0;
      for (let i = 0; i < d; i++) squares += x![start + i]! ** 2;
      const scale = 1 / Math.sqrt(squares / d + eps);
      for (let i = 0; i < d; i++)
        y[start + i] = x![start + i]! * scale * (offset + w![i]!) + (residual?.[start + i] ?? 0);
    }
    return [y];
  },
  rope(node, [x, table, positions]) {
    const { heads, headDim, inverse } = node.attrs as { heads: number; headDim: number; inverse: boolean };
    const y = new Float64Array(x!.length);
    const half = headDim / 2;
    positions!.forEach((position, t) => {
      for (let head = 0; head < heads; head++) {
        const at = (t * heads + head) * headDim;
        for (let i = 0; i < half; i++) {
          const cos = table![position * headDim + i]!;
          const sin = table![position * headDim + half + i]! * (inverse ? -1 : 1);
          const [p, q] = [x![at + i]!, x![at + half + i]!];
          y[at + i] = p * cos - q * sin;
          y[at + half + i] = q * cos + p * sin;
        }
      }
    });
    return [y];
  },
  attention(node, [q, k, v, seqStart, seqEnd]) {
    const { heads, kvHeads, headDim, scale, window, softcap, causal } = node.attrs as Record<string, number>;
    const tokens = rows(node.inputs[0]!);
    const o = new Float64Array(q!.length);
    const lse = new Float64Array(heads! * tokens);
    for (let h = 0; h < heads!; h++) {
      const kvHead = Math.floor(h / (heads! / kvHeads!));
      for (let t = 0; t < tokens; t++) {
        const from = Math.max(seqStart![t]!, window! > 0 ? t - window! + 1 : 0);
        const to = causal ? t + 1 : seqEnd![t]!;
        const scores: number[] = [];
        for (let s = from; s < to; s++) {
          let dot = 0;
          for (let i = 0; i < headDim!; i++)
            dot += q![(t * heads! + h) * headDim! + i]! * k![(s * kvHeads! + kvHead) * headDim! + i]!;
          const score = dot * scale!;
          scores.push(softcap! > 0 ? softcap! * Math.tanh(score / softcap!) : score);
        }
        const largest = Math.max(...scores);
        const total = scores.reduce((sum, score) => sum + Math.exp(score - largest), 0);
        lse[h * tokens + t] = largest + Math.log(total);
        scores.forEach((score, i) => {
          const p = Math.exp(score - largest) / total;
          const at = ((from + i) * kvHeads! + kvHead) * headDim!;
          for (let j = 0; j < headDim!; j++) o[(t * heads! + h) * headDim! + j]! += p * v![at + j]!;
        });
      }
    }
    return [o, lse];
  },
  glu(node, [gate, up]) {
    const act = { silu, geluTanh, gelu }[node.attrs.act as "silu"]!;
    return [gate!.map((x, i) => act(x) * up![i]!)];
  },
  linear_cross_entropy(node, [h, w, bias, labels, lossScale]) {
    const v = rows(node.inputs[1]!);
    const logits = headLogits(node, h!, w!, bias ?? null);
    return lossOf(node, logits, labels!, lossScale![0]!, v).slice(0, 2);
  },
  cross_entropy: (node, [logits, labels, lossScale]) =>
    lossOf(node, logits!, labels!, lossScale![0]!, cols(node.inputs[0]!)),
  linear_log_probs(node, [h, w, bias, labels]) {
    return tokenLogProbs(node, headLogits(node, h!, w!, bias ?? null), labels!);
  },
  log_probs: (node, [logits, labels]) => tokenLogProbs(node, logits!, labels!),
  log_softmax(node, [x]) {
    const width = cols(node.inputs[0]!);
    const scaled = x!.map((value) => value * (node.attrs.scale as number));
    for (let at = 0; at < scaled.length; at += width) {
      const row = scaled.subarray(at, at + width);
      const largest = row.reduce((m, value) => Math.max(m, value), Number.NEGATIVE_INFINITY);
      const lse = largest + Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0));
      row.forEach((value, j) => {
        row[j] = value - lse;
      });
    }
    return [scaled];
  },
  segment_sum(node, [x, segments]) {
    const sums = new Float64Array(node.attrs.segments as number);
    segments!.forEach((segment, t) => {
      if (segment >= 0) sums[segment]! += x![t]!;
    });
    return [sums];
  },
  take: (_, [x, indices]) => [indices!.map((index) => (index < 0 ? 0 : x![index]!))],
  unary: (node, [x]) => [x!.map((value) => UNARY[node.attrs.kind as string]!(value, node.attrs.c as number))],
  binary(node, [a, b]) {
    const out = node.outputs[0]!;
    const width = cols(out);
    const at = (data: Data, spread: unknown, i: number): number =>
      data[spread === "full" ? i : spread === "row" ? i % width : spread === "column" ? Math.floor(i / width) : 0]!;
    const { kind, aSpread, bSpread } = node.attrs;
    const f = BINARY[kind as string]!;
    return [Float64Array.from({ length: numel(out.shape) }, (_, i) => f(at(a!, aSpread, i), at(b!, bSpread, i)))];
  },
  reduce(node, [x]) {
    const width = node.attrs.axis === "all" ? x!.length : cols(node.inputs[0]!);
    const sums = new Float64Array(x!.length / width);
    x!.forEach((value, i) => (sums[Math.floor(i / width)]! += value));
    return [node.attrs.kind === "mean" ? sums.map((s) => s / width) : sums];
  },
  column_sum(node, [x, acc]) {
    const width = cols(node.inputs[0]!);
    const sums = acc ? acc.slice() : new Float64Array(width);
    x!.forEach((value, i) => (sums[i % width]! += (node.attrs.alpha as number) * value));
    return [sums];
  },
  constant: (node) => [Float64Array.of(node.attrs.value as number)],
};

/** h·Wᵀ + bias, [T, V]. */
function headLogits(node: Node, h: Data, w: Data, bias: Data | null): Float64Array {
  const d = cols(node.inputs[0]!);
  const v = rows(node.inputs[1]!);
  const logits = new Float64Array((h.length / d) * v);
  for (let t = 0; t < h.length / d; t++) {
    for (let j = 0; j < v; j++) {
      let dot = bias?.[j] ?? 0;
      for (let i = 0; i < d; i++) dot += h[t * d + i]! * w[j * d + i]!;
      logits[t * v + j] = dot;
    }
  }
  return logits;
}

function tokenLogProbs(node: Node, raw: Data, labels: Data): Float64Array[] {
  const { softcap, scale } = node.attrs as { softcap: number; scale: number };
  const v = raw.length / labels.length;
  const logits = raw.map((x) => scale * (softcap > 0 ? softcap * Math.tanh(x / softcap) : x));
  const [logp, entropy, mean, correct] = [0, 1, 2, 3].map(() => new Float64Array(labels.length));
  labels.forEach((label, t) => {
    if (label < 0) return;
    const row = logits.subarray(t * v, (t + 1) * v);
    const largest = row.reduce((m, x) => Math.max(m, x), Number.NEGATIVE_INFINITY);
    const lse = largest + Math.log(row.reduce((sum, x) => sum + Math.exp(x - largest), 0));
    logp![t] = row[label]! - lse;
    entropy![t] = lse - row.reduce((sum, x) => sum + Math.exp(x - lse) * x, 0);
    mean![t] = row.reduce((sum, x) => sum + x, 0) / v / scale;
    correct![t] = row.indexOf(largest) === label ? 1 : 0;
  });
  return [logp!, entropy!, mean!, correct!];
}

function lossOf(node: Node, raw: Data, labels: Data, lossScale: number, v: number): Float64Array[] {
  const { softcap, labelSmoothing } = node.attrs as { softcap: number; labelSmoothing: number };
  const logits = softcap > 0 ? raw.map((x) => softcap * Math.tanh(x / softcap)) : raw;
  const metrics = new Float64Array(4);
  const lse = new Float64Array(labels.length);
  labels.forEach((label, t) => {
    const row = logits.subarray(t * v, (t + 1) * v);
    const largest = row.reduce((m, x) => Math.max(m, x), Number.NEGATIVE_INFINITY);
    lse[t] = largest + Math.log(row.reduce((sum, x) => sum + Math.exp(x - largest), 0));
    if (label < 0) return;
    const mean = row.reduce((sum, x) => sum + x, 0) / v;
    metrics[0]! += lse[t]! - (1 - labelSmoothing) * row[label]! - labelSmoothing * mean;
    metrics[1]! += row.indexOf(largest) === label ? 1 : 0;
    metrics[2]! += lse[t]! - row.reduce((sum, x) => sum + Math.exp(x - lse[t]!) * x, 0);
    metrics[3]! += 1;
  });
  return [Float64Array.of(lossScale * metrics[0]!), metrics, lse];
}

/** d(loss)/d(value) by central differences of the interpreter, element by element. */
export function numericGradient(
  graph: Graph,
  given: ReadonlyMap<Value, ArrayLike<number>>,
  loss: Value,
  value: Value,
  step = 1e-5,
): Float64Array {
  const base = Float64Array.from(given.get(value)!);
  return base.map((x, i) => {
    const at = (shift: number): number => {
      const moved = base.slice();
      moved[i] = x + shift;
      return interpret(graph, new Map(given).set(value, moved), [loss])[0]![0]!;
    };
    return (at(step) - at(-step)) / (2 * step);
  });
}
