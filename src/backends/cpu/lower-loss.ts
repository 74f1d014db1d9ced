import type { Node, Value } from "../../graph/graph.ts";
import { colsOf, type Lower, type Lowering, number, rowsOf, size } from "./lowering.ts";
import type { KernelArgument } from "./runtime.ts";

/** Cross-entropy and log-probabilities, of a head and of given logits, and sums by sequence. */
export const LOWER_LOSS: Readonly<Record<string, Lower>> = {
  linear_cross_entropy(node, to) {
    to.emit("linear_cross_entropy", [...headLoss(node, to), 0, 0, 0, 0, 0]);
  },
  linear_cross_entropy_grad(node, to) {
    const { weightGrad, biasGrad } = node.attrs;
    const dWeight = weightGrad ? [to.address(node.inputs[5]), to.address(node.outputs[3])] : [0, 0];
    const dBias = biasGrad ? [to.address(node.inputs[6]), to.address(node.outputs[node.outputs.length - 1])] : [0, 0];
    to.emit("linear_cross_entropy", [...headLoss(node, to), to.address(node.outputs[2]), ...dWeight, ...dBias]);
  },
  cross_entropy(node, to) {
    const logits = node.inputs[0]!;
    const inputs = node.inputs.map((value) => to.address(value));
    const { softcap, labelSmoothing } = node.attrs as Record<string, number>;
    const outputs = node.outputs.map((value) => to.address(value));
    to.emit("cross_entropy", [rowsOf(logits), colsOf(logits), ...inputs, softcap!, labelSmoothing!, ...outputs]);
  },
  cross_entropy_grad(node, to) {
    const [logits, labels, lossScale, dloss, lse] = node.inputs as Value[];
    const { softcap, labelSmoothing } = node.attrs as Record<string, number>;
    const head = [logits, labels, lossScale, dloss].map((value) => to.address(value));
    const tail = [to.address(lse), to.address(node.outputs[0])];
    to.emit("cross_entropy_grad", [rowsOf(logits!), colsOf(logits!), ...head, softcap!, labelSmoothing!, ...tail]);
  },
  log_probs(node, to) {
    to.emit("log_probs", [...givenLogits(node, to), ...node.outputs.map((value) => to.address(value))]);
  },
  log_probs_grad(node, to) {
    to.emit("log_probs_grad", [...givenLogits(node, to), to.address(node.inputs[2]), to.address(node.outputs[0])]);
  },
  linear_log_probs(node, to) {
    to.emit("linear_log_probs", [...headLogits(node, to), ...node.outputs.map((value) => to.address(value))]);
  },
  linear_log_probs_grad(node, to) {
    const { weightGrad, biasGrad } = node.attrs;
    const dWeight = weightGrad ? [to.address(node.inputs[5]), to.address(node.outputs[1])] : [0, 0];
    const dBias = biasGrad ? [to.address(node.inputs[6]), to.address(node.outputs[node.outputs.length - 1])] : [0, 0];
    const hidden = [to.address(node.inputs[4]), to.address(node.outputs[0])];
    to.emit("linear_log_probs_grad", [...headLogits(node, to), ...hidden, ...dWeight, ...dBias]);
  },
  log_softmax(node, to) {
    const [x, y] = [node.inputs[0]!, node.outputs[0]!];
    to.emit("log_softmax", [rowsOf(x), colsOf(x), number(node, "scale"), to.address(x), to.address(y)]);
  },
  log_softmax_grad(node, to) {
    const [y, dy] = node.inputs as [Value, Value];
    const pointers = [y, dy, node.outputs[0]].map((value) => to.address(value));
    to.emit("log_softmax_grad", [rowsOf(y), colsOf(y), number(node, "scale"), ...pointers]);
  },
  segment_sum(node, to) {
    const [x, segments] = node.inputs as [Value, Value];
    const pointers = [to.address(x), to.address(segments), 0, to.address(node.outputs[0])];
    to.emit("select_rows_grad", [size(x), 1, number(node, "segments"), ...pointers]);
  },
  take(node, to) {
    const [x, indices] = node.inputs as [Value, Value];
    const pointers = [to.address(x), to.address(indices), to.address(node.outputs[0])];
    to.emit("select_rows", [size(indices), 1, size(x), ...pointers]);
  },
};

function headLoss(node: Node, to: Lowering): KernelArgument[] {
  const [h, w, bias, labels, lossScale] = node.inputs as [Value, Value, Value | null, Value, Value];
  const { softcap, labelSmoothing } = node.attrs as Record<string, number>;
  const pointers = [bias, labels, lossScale].map((value) => to.address(value));
  const outputs = [to.address(node.outputs[0]), to.address(node.outputs[1])];
  const head = [rowsOf(h), colsOf(h), rowsOf(w), to.address(h), ...to.weight(w), colsOf(w)];
  return [...head, ...pointers, softcap!, labelSmoothing!, ...outputs];
}

/** What log_probs and its gradient begin with. */
function givenLogits(node: Node, to: Lowering): KernelArgument[] {
  const [logits, labels] = node.inputs as [Value, Value];
  const { softcap, scale } = node.attrs as Record<string, number>;
  return [rowsOf(logits), colsOf(logits), to.address(logits), to.address(labels), softcap!, scale!];
}

/** What linear_log_probs and its gradient begin with. */
function headLogits(node: Node, to: Lowering): KernelArgument[] {
  const [h, w, bias, labels] = node.inputs as [Value, Value, Value | null, Value];
  const { softcap, scale } = node.attrs as Record<string, number>;
  const head = [rowsOf(h), colsOf(h), rowsOf(w), to.address(h), ...to.weight(w), colsOf(w)];
  return [...head, to.address(bias), to.address(labels), softcap!, scale!];
}
