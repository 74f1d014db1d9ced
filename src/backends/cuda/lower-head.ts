import type { Value } from "../../graph/graph.ts";
import { cType, float, int, long, pointer } from "./kernels.ts";
import { columnSum } from "./lower-sums.ts";
import { colsOf, dense, floatOf, type Lowering, rowsOf, rowThreads, typed } from "./lowering.ts";

/** What rows of logits are wanted for, and the numbers that takes; addresses, 0 or left out where there is none. */
export interface RowOutputs {
  readonly scale?: number;
  readonly smoothing?: number;
  /** The gradient's factor: dlogp[token], or lossScale·dloss. */
  readonly lossScale?: number;
  readonly dloss?: number;
  readonly dlogp?: number;
  readonly stats?: number;
  readonly lse?: number;
  readonly logp?: number;
  readonly entropy?: number;
  readonly mean?: number;
  readonly correct?: number;
}

interface LabelRows extends RowOutputs {
  readonly rows: number;
  readonly vocab: number;
  readonly pitch: number;
  readonly logits: number;
  readonly logitsType: string;
  readonly gradType: string;
  /** Elements a thread at a time. */
  readonly vector: number;
  readonly bias: number;
  /** Token of each row; 0: its own number. */
  readonly index: number;
  readonly labels: number;
  readonly softcap: number;
  readonly dlogits: number;
  readonly dpitch: number;
}

const THREADS = 512;

/** One launch of the kernel that turns rows of logits into losses, log-probabilities or gradients. */
export function labelRows(to: Lowering, at: LabelRows): void {
  const outputs = [at.lossScale, at.dloss, at.dlogp, at.stats, at.lse, at.logp, at.entropy, at.mean, at.correct];
  to.launch({
    file: "cross_entropy",
    defines: { T: at.logitsType, D: at.gradType, V: at.vector },
    kernel: "label_rows",
    grid: [at.rows],
    threads: THREADS,
    args: [
      long(at.vocab), long(at.pitch), long(at.dpitch), pointer(at.logits), pointer(at.bias), pointer(at.index),
      pointer(at.labels), float(at.softcap), float(at.scale ?? 1), float(at.smoothing ?? 0),
      ...outputs.map((address) => pointer(address ?? 0)), pointer(at.dlogits),
    ],
  }); // biome-ignore format: in the groups of the kernel's signature
}

/** Rows of a chunk: few enough for their f32 logits to fit into CHUNK_BYTES, enough for products to be quick. */
const CHUNK_BYTES = 544 * 2 ** 20;
const CHUNK_STEP = 128;
const MOST_ROWS = 1024;
const roundUp = (n: number, step: number): number => Math.ceil(n / step) * step;

function chunkRows(tokens: number, pitch: number): number {
  const fitting = Math.floor(CHUNK_BYTES / (4 * pitch) / CHUNK_STEP) * CHUNK_STEP;
  // Few tokens need little memory elsewhere, so their logits should not be what the step's peak is made of.
  const wanted = Math.min(MOST_ROWS, Math.max(512, roundUp(tokens / 4, CHUNK_STEP)));
  return Math.min(roundUp(tokens, CHUNK_STEP), Math.max(CHUNK_STEP, Math.min(fitting, wanted)));
}

/** A gradient that is added to `acc` (0: to nothing). */
interface Target {
  readonly acc: number;
  readonly out: number;
  readonly bytes: number;
}

interface HeadRows {
  readonly h: Value;
  readonly w: Value;
  readonly bias: Value | null;
  readonly labels: Value;
  /** Gradient of h; none when null. */
  readonly dh: Value | null;
  readonly gradients: { readonly weight: Target | null; readonly bias: Target | null };
  readonly rows: RowOutputs & { readonly softcap: number };
}

/**
 * A head over the tokens that have a label, a chunk of them at a time: gather h, logits, what the rows are wanted for, and
 * from their gradients (over the logits) dh, dW and dBias. dh is 0 for the others. How many tokens have a label is known
 * when a run starts, and no more work than for these (rounded up to CHUNK_STEP) is done.
 */
export function headRows(to: Lowering, head: HeadRows): void {
  const { h, w, bias, labels, dh, gradients } = head;
  const [tokens, d, vocab] = [rowsOf(h), colsOf(h), rowsOf(w)];
  const input = floatOf(h);
  const bytes = input === "f32" ? 4 : 2;
  const pitch = roundUp(vocab, 64);
  const chunk = chunkRows(tokens, pitch);
  const room = roundUp(tokens, CHUNK_STEP);
  const weight = dense(to, w, input);
  const index = to.scratch(4 * room);
  const hidden = to.scratch(bytes * chunk * d);
  const dHidden = dh ? to.scratch(bytes * chunk * d) : 0;
  const logits = to.scratch(4 * chunk * pitch);
  const wantsGradient = dh !== null || gradients.weight !== null || gradients.bias !== null;
  // Gradients are written over the logits that they belong to.
  const dpitch = (pitch * 4) / bytes;
  to.launch({
    file: "rows",
    defines: { T: cType(input), V: 1 },
    kernel: "labelled_rows",
    grid: [1],
    threads: 1024,
    args: [long(tokens), long(room), int(vocab), pointer(to.address(labels)), pointer(index)],
  });
  if (dh) to.clear(to.address(dh), dh.bytes);
  const move = (kernel: string, rows: number, at: number, from: number, target: number): void => {
    const V = d % 8 === 0 ? 16 / bytes : 1;
    const args = [long(d), pointer(at), pointer(from), pointer(target)];
    to.launch({ file: "rows", defines: { ...typed(h), V }, kernel, grid: [rows], threads: rowThreads(d, V), args });
  };
  to.sized(labels, CHUNK_STEP, (labelled) => {
    for (const target of labelled === 0 ? [gradients.weight, gradients.bias] : []) {
      if (target?.acc) to.copy(target.out, target.acc, target.bytes);
      else if (target) to.clear(target.out, target.bytes);
    }
    for (let from = 0; from < labelled; from += chunk) {
      const rows = Math.min(chunk, labelled - from);
      const at = index + 4 * from;
      move("gather_rows", rows, at, to.address(h), hidden);
      const common = { input, transA: false };
      to.product(
        { ...common, m: rows, n: vocab, k: d, transB: true, output: "f32", lda: d, ldb: d, ldc: pitch },
        { a: hidden, b: weight, c: logits, d: logits, alpha: 1, beta: 0 },
      );
      labelRows(to, {
        rows,
        vocab,
        pitch,
        logits,
        logitsType: "float",
        gradType: cType(input),
        vector: 4,
        bias: to.address(bias),
        index: at,
        labels: to.address(labels),
        dlogits: wantsGradient ? logits : 0,
        dpitch,
        ...head.rows,
      });
      if (dh) {
        to.product(
          { ...common, m: rows, n: d, k: vocab, transB: false, output: input, lda: dpitch, ldb: d, ldc: d },
          { a: logits, b: weight, c: dHidden, d: dHidden, alpha: 1, beta: 0 },
        );
        move("scatter_rows", rows, at, dHidden, to.address(dh));
      }
      const before = ({ acc, out }: Target): number => (from > 0 ? out : acc);
      if (gradients.weight) {
        const acc = before(gradients.weight);
        const { out } = gradients.weight;
        to.product(
          { input, m: vocab, n: d, k: rows, transA: true, transB: false, output: "f32", lda: dpitch, ldb: d, ldc: d },
          { a: logits, b: hidden, c: acc || out, d: out, alpha: 1, beta: acc ? 1 : 0 },
        );
      }
      if (gradients.bias) {
        const matrix = { address: logits, type: cType(input), rows, cols: vocab, pitch: dpitch };
        columnSum(to, matrix, 1, before(gradients.bias), gradients.bias.out);
      }
    }
  });
}
