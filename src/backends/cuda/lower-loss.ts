import type { Node, Value } from "../../graph/graph.ts";
import { cType, float, long, pointer } from "./kernels.ts";
import { columnSum } from "./lower-sums.ts";
import { colsOf, dense, floatOf, type Lower, type Lowering, number, rowsOf } from "./lowering.ts";

/** Bytes of f32 logits that exist at a time, and the fewest rows of a chunk. */
const CHUNK_BYTES = 256 * 2 ** 20;
const CHUNK_ROWS = 128;
const THREADS = 512;

interface Rows {
  readonly rows: number;
  readonly vocab: number;
  readonly logits: number;
  readonly logitsType: string;
  readonly bias: number;
  readonly labels: number;
  readonly lossScale: number;
  readonly dloss: number;
  readonly stats: number;
  readonly lse: number;
  readonly dlogits: number;
  readonly gradType: string;
}

function lossRows(to: Lowering, node: Node, at: Rows): void {
  to.launch({
    file: "cross_entropy",
    defines: { T: at.logitsType, D: at.gradType },
    kernel: "cross_entropy_rows",
    grid: [at.rows],
    threads: THREADS,
    args: [
      long(at.vocab), pointer(at.logits), pointer(at.bias), pointer(at.labels), pointer(at.lossScale), pointer(at.dloss),
      float(number(node, "softcap")), float(number(node, "labelSmoothing")), pointer(at.stats), pointer(at.lse),
      pointer(at.dlogits),
    ],
  }); // biome-ignore format: in the groups of the kernel's signature
}

function lossTotal(to: Lowering, node: Node, rows: number, stats: number, lossScale: number): void {
  const outputs = [node.outputs[0], node.outputs[1]].map((value) => pointer(to.address(value)));
  to.launch({
    file: "cross_entropy",
    defines: { T: "float", D: "float" },
    kernel: "loss_total",
    grid: [1],
    threads: 128,
    args: [long(rows), pointer(stats), pointer(lossScale), ...outputs],
  });
}

/** The loss of a head over h, a chunk of tokens at a time; with gradients when `dh` is given. */
function headLoss(node: Node, to: Lowering, dh: Value | null): void {
  const [h, w, bias, labels, lossScale] = node.inputs as [Value, Value, Value | null, Value, Value];
  const { weightGrad = false, biasGrad = false } = node.attrs;
  const [tokens, d] = [rowsOf(h), colsOf(h)];
  const vocab = rowsOf(w);
  const input = floatOf(h);
  const bytes = input === "f32" ? 4 : 2;
  const wanted = Math.floor(CHUNK_BYTES / (4 * vocab) / CHUNK_ROWS) * CHUNK_ROWS;
  const chunk = Math.min(tokens, Math.max(CHUNK_ROWS, wanted));
  const weight = dense(to, w, input);
  const stats = to.scratch(16 * tokens);
  const logits = to.scratch(4 * chunk * vocab);
  const dlogits = !dh ? 0 : input === "f32" ? logits : to.scratch(bytes * chunk * vocab);
  const dWeight = weightGrad ? to.address(node.outputs[3]) : 0;
  const dBias = biasGrad ? to.address(node.outputs[node.outputs.length - 1]) : 0;
  for (let from = 0; from < tokens; from += chunk) {
    const rows = Math.min(chunk, tokens - from);
    const hidden = to.address(h) + from * d * bytes;
    const common = { input, transA: false };
    to.product(
      { ...common, m: rows, n: vocab, k: d, transB: true, output: "f32", lda: d, ldb: d, ldc: vocab },
      { a: hidden, b: weight, c: logits, d: logits, alpha: 1, beta: 0 },
    );
    lossRows(to, node, {
      rows,
      vocab,
      logits,
      logitsType: "float",
      bias: to.address(bias),
      labels: to.address(labels) + 4 * from,
      lossScale: to.address(lossScale),
      dloss: 0,
      stats: stats + 16 * from,
      lse: 0,
      dlogits,
      gradType: cType(input),
    });
    if (!dh) continue;
    const target = to.address(dh) + from * d * bytes;
    to.product(
      { ...common, m: rows, n: d, k: vocab, transB: false, output: input, lda: vocab, ldb: d, ldc: d },
      { a: dlogits, b: weight, c: target, d: target, alpha: 1, beta: 0 },
    );
    const acc = (index: number, target: number): number => (from > 0 ? target : to.address(node.inputs[index]));
    if (dWeight || weightGrad) {
      const before = acc(5, dWeight);
      to.product(
        { input, m: vocab, n: d, k: rows, transA: true, transB: false, output: "f32", lda: vocab, ldb: d, ldc: d },
        { a: dlogits, b: hidden, c: before || dWeight, d: dWeight, alpha: 1, beta: before ? 1 : 0 },
      );
    }
    if (biasGrad) {
      columnSum(to, { address: dlogits, type: cType(input), rows, cols: vocab }, 1, acc(6, dBias), dBias);
    }
  }
  lossTotal(to, node, tokens, stats, to.address(lossScale));
}

/** Cross-entropy, of a head and of given logits. */
export const LOWER_LOSS: Readonly<Record<string, Lower>> = {
  linear_cross_entropy: (node, to) => headLoss(node, to, null),
  linear_cross_entropy_grad: (node, to) => headLoss(node, to, node.outputs[2]!),
  cross_entropy(node, to) {
    const [logits, labels, lossScale] = node.inputs as [Value, Value, Value];
    const stats = to.scratch(16 * rowsOf(logits));
    lossRows(to, node, {
      rows: rowsOf(logits),
      vocab: colsOf(logits),
      logits: to.address(logits),
      logitsType: cType(floatOf(logits)),
      bias: 0,
      labels: to.address(labels),
      lossScale: to.address(lossScale),
      dloss: 0,
      stats,
      lse: to.address(node.outputs[2]),
      dlogits: 0,
      gradType: "float",
    });
    lossTotal(to, node, rowsOf(logits), stats, to.address(lossScale));
  },
  cross_entropy_grad(node, to) {
    const [logits, labels, lossScale, dloss] = node.inputs as [Value, Value, Value, Value];
    lossRows(to, node, {
      rows: rowsOf(logits),
      vocab: colsOf(logits),
      logits: to.address(logits),
      logitsType: cType(floatOf(logits)),
      bias: 0,
      labels: to.address(labels),
      lossScale: to.address(lossScale),
      dloss: to.address(dloss),
      stats: 0,
      lse: 0,
      dlogits: to.address(node.outputs[0]),
      gradType: cType(floatOf(node.outputs[0]!)),
    });
  },
};
