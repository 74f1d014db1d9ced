import type { Node, Value } from "../../graph/graph.ts";
import { cType, float, long, pointer } from "./kernels.ts";
import { headRows, labelRows, type RowOutputs } from "./lower-head.ts";
import {
  colsOf,
  floatOf,
  type Lower,
  type Lowering,
  number,
  rowsOf,
  rowThreads,
  size,
  spread,
  typed,
} from "./lowering.ts";

/** Loss and metrics from the sums of every row. */
function lossTotal(to: Lowering, node: Node, rows: number, stats: number, lossScale: number): void {
  const outputs = [node.outputs[0], node.outputs[1]].map((value) => pointer(to.address(value)));
  to.launch({
    file: "cross_entropy",
    defines: { T: "float", D: "float", V: 1 },
    kernel: "loss_total",
    grid: [1],
    threads: 128,
    args: [long(rows), pointer(stats), pointer(lossScale), ...outputs],
  });
}

/** Where dW and dBias go, and what they are added to: the outputs and inputs from these indices on. */
function weightGradients(node: Node, to: Lowering, output: number) {
  const { weightGrad = false, biasGrad = false } = node.attrs;
  const last = node.outputs.length - 1;
  const at = (wanted: unknown, acc: number, index: number) => {
    const out = node.outputs[index]!;
    return wanted ? { acc: to.address(node.inputs[acc]), out: to.address(out), bytes: out.bytes } : null;
  };
  return { weight: at(weightGrad, 5, output), bias: at(biasGrad, 6, last) };
}

/** The loss of a head over h, with gradients when `dh` is given. */
function headLoss(node: Node, to: Lowering, dh: Value | null): void {
  const [h, w, bias, labels, lossScale] = node.inputs as [Value, Value, Value | null, Value, Value];
  const tokens = rowsOf(h);
  const stats = to.scratch(16 * tokens);
  to.clear(stats, 16 * tokens);
  headRows(to, {
    h,
    w,
    bias,
    labels,
    dh,
    gradients: weightGradients(node, to, 3),
    rows: {
      softcap: number(node, "softcap"),
      smoothing: number(node, "labelSmoothing"),
      lossScale: to.address(lossScale),
      stats,
    },
  });
  lossTotal(to, node, tokens, stats, to.address(lossScale));
}

/** Whole logits: what the rows are and what they are wanted for. */
function givenLogits(node: Node, to: Lowering, outputs: RowOutputs & { dlogits?: Value }): void {
  const [logits, labels] = node.inputs as [Value, Value];
  const { dlogits, ...rest } = outputs;
  const vocab = colsOf(logits);
  labelRows(to, {
    rows: rowsOf(logits),
    vocab,
    pitch: vocab,
    logits: to.address(logits),
    logitsType: cType(floatOf(logits)),
    gradType: cType(floatOf(logits)),
    vector: vocab % 8 === 0 ? 16 / (logits.dtype === "f32" ? 4 : 2) : 1,
    bias: 0,
    index: 0,
    labels: to.address(labels),
    softcap: number(node, "softcap"),
    dlogits: to.address(dlogits),
    dpitch: vocab,
    ...rest,
  });
}

const tokenOutputs = (node: Node, to: Lowering): RowOutputs => {
  const [logp, entropy, mean, correct] = node.outputs.map((value) => to.address(value));
  return { logp: logp!, entropy: entropy!, mean: mean!, correct: correct! };
};

/** Cross-entropy and log-probabilities, of a head and of given logits, and sums by sequence. */
export const LOWER_LOSS: Readonly<Record<string, Lower>> = {
  linear_cross_entropy: (node, to) => headLoss(node, to, null),
  linear_cross_entropy_grad: (node, to) => headLoss(node, to, node.outputs[2]!),
  linear_log_probs(node, to) {
    const [h, w, bias, labels] = node.inputs as [Value, Value, Value | null, Value];
    for (const value of node.outputs) to.clear(to.address(value), value.bytes);
    const rows = { softcap: number(node, "softcap"), scale: number(node, "scale"), ...tokenOutputs(node, to) };
    headRows(to, { h, w, bias, labels, dh: null, gradients: { weight: null, bias: null }, rows });
  },
  linear_log_probs_grad(node, to) {
    const [h, w, bias, labels, dlogp] = node.inputs as [Value, Value, Value | null, Value, Value];
    const rows = { softcap: number(node, "softcap"), scale: number(node, "scale"), dlogp: to.address(dlogp) };
    headRows(to, { h, w, bias, labels, dh: node.outputs[0]!, gradients: weightGradients(node, to, 1), rows });
  },
  cross_entropy(node, to) {
    const [logits, , lossScale] = node.inputs as [Value, Value, Value];
    const stats = to.scratch(16 * rowsOf(logits));
    givenLogits(node, to, { smoothing: number(node, "labelSmoothing"), stats, lse: to.address(node.outputs[2]) });
    lossTotal(to, node, rowsOf(logits), stats, to.address(lossScale));
  },
  cross_entropy_grad(node, to) {
    const [, , lossScale, dloss] = node.inputs as [Value, Value, Value, Value];
    const factor = { lossScale: to.address(lossScale), dloss: to.address(dloss) };
    givenLogits(node, to, { smoothing: number(node, "labelSmoothing"), ...factor, dlogits: node.outputs[0]! });
  },
  log_probs: (node, to) => givenLogits(node, to, { scale: number(node, "scale"), ...tokenOutputs(node, to) }),
  log_probs_grad(node, to) {
    const dlogp = to.address(node.inputs[2]);
    givenLogits(node, to, { scale: number(node, "scale"), dlogp, dlogits: node.outputs[0]! });
  },
  log_softmax: (node, to) => logSoftmax(node, to, [node.inputs[0]!, node.outputs[0]!]),
  log_softmax_grad: (node, to) => logSoftmax(node, to, [node.inputs[0]!, node.inputs[1]!, node.outputs[0]!]),
  segment_sum(node, to) {
    const [x, segments] = node.inputs as [Value, Value];
    const pointers = [x, segments, node.outputs[0]].map((value) => pointer(to.address(value)));
    to.launch({
      file: "reduce",
      defines: { T: "float" },
      kernel: "segment_sum",
      grid: [number(node, "segments")],
      threads: 256,
      args: [long(size(x)), ...pointers],
    });
  },
  take(node, to) {
    const [x, indices] = node.inputs as [Value, Value];
    const pointers = [x, indices, node.outputs[0]].map((value) => pointer(to.address(value)));
    spread(to, "reduce", { T: "float" }, "take", size(indices), [long(size(indices)), long(size(x)), ...pointers]);
  },
};

/** Log-probabilities of rows, or their gradient: a block a row. */
function logSoftmax(node: Node, to: Lowering, values: readonly Value[]): void {
  const y = node.outputs[0]!;
  to.launch({
    file: "softmax",
    defines: typed(y),
    kernel: node.op.name,
    grid: [rowsOf(y)],
    threads: rowThreads(colsOf(y)),
    args: [long(colsOf(y)), float(number(node, "scale")), ...values.map((value) => pointer(to.address(value)))],
  });
}
