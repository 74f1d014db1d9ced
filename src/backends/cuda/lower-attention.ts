import type { Node, Value } from "../../graph/graph.ts";
import { GraphError } from "../../graph/types.ts";
import { type TileKernel, type TileKernels, tileKernels } from "./attention-tiles.ts";
import { float, int, type KernelArgument, pointer } from "./kernels.ts";
import { attentionByCudnn, attentionGradByCudnn } from "./lower-cudnn.ts";
import { LOWER_DECODE } from "./lower-decode.ts";
import { floatOf, type Lower, type Lowering, rowsOf, typed } from "./lowering.ts";

const MAX_HEAD_DIM = 256;

interface Shape {
  readonly tokens: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

function shapeOf(node: Node): Shape {
  const { heads, kvHeads, headDim } = node.attrs as Record<string, number>;
  if (headDim! > MAX_HEAD_DIM) {
    throw new GraphError(`the CUDA backend's attention has heads of up to ${MAX_HEAD_DIM}, found ${headDim}`);
  }
  return { tokens: rowsOf(node.inputs[0]!), heads: heads!, kvHeads: kvHeads!, headDim: headDim! };
}

function headArguments(node: Node, to: Lowering, { tokens, heads, kvHeads, headDim }: Shape): KernelArgument[] {
  const pointers = node.inputs.slice(0, 5).map((value) => pointer(to.address(value)));
  const { scale, window, softcap, causal } = node.attrs as Record<string, number>;
  const shape = [int(tokens), int(heads), int(kvHeads), int(headDim)];
  return [...shape, ...pointers, float(scale!), int(window!), float(softcap!), int(causal!)];
}

/** The kernels in f32 arithmetic (attention.cu), for whatever the tensor cores do not take. */
function plain(q: Value, headDim: number): Pick<TileKernel, "file" | "defines" | "rows" | "threads"> {
  const DP = 32 * Math.ceil(headDim / 32);
  const rows = DP > 128 ? 4 : 8;
  return { file: "attention", defines: { ...typed(q), DP }, rows, threads: 32 * rows };
}

function tiled(node: Node, to: Lowering, { headDim }: Shape): TileKernels | null {
  const { softcap, scale } = node.attrs as Record<string, number>;
  // Maxima are taken of products before the scale, which must not turn them around.
  return scale! > 0 ? tileKernels(floatOf(node.inputs[0]!), headDim, softcap!, to.computeCapability) : null;
}

/** Σ do·o of each token and head, [heads, tokens]. */
function delta(node: Node, to: Lowering, { tokens, heads, headDim }: Shape, o: Value, dout: Value): number {
  const out = to.scratch(4 * tokens * heads);
  const shape = [int(tokens), int(heads), int(headDim)];
  to.launch({
    file: "attention",
    defines: plain(node.inputs[0]!, headDim).defines,
    kernel: "attention_delta",
    grid: [Math.ceil((tokens * heads) / 8)],
    threads: 256,
    args: [...shape, pointer(to.address(o)), pointer(to.address(dout)), pointer(out)],
  });
  return out;
}

/** attention_delta.cu's two numbers of each token and head, [2, heads, tokens]. */
function statistics(node: Node, to: Lowering, { tokens, heads, headDim }: Shape): number {
  const [o, lse, dout] = node.inputs.slice(5) as [Value, Value, Value];
  const out = to.scratch(8 * tokens * heads);
  const lanes = headDim > 128 ? 32 : headDim > 64 ? 16 : 8;
  to.launch({
    file: "attention_delta",
    defines: { ...typed(o), D: headDim },
    kernel: "attention_delta",
    grid: [Math.ceil((tokens * heads * lanes) / 256)],
    threads: 256,
    args: [int(tokens), int(heads), ...[o, dout, lse].map((value) => pointer(to.address(value))), pointer(out)],
  });
  return out;
}

/** Attention over packed tokens and against a cache. */
export const LOWER_ATTENTION: Readonly<Record<string, Lower>> = {
  ...LOWER_DECODE,
  attention(node, to) {
    if (attentionByCudnn(node, to)) return;
    const shape = shapeOf(node);
    const kernel = tiled(node, to, shape)?.forward ?? plain(node.inputs[0]!, shape.headDim);
    to.launch({
      ...kernel,
      kernel: "attention",
      grid: [Math.ceil(shape.tokens / kernel.rows), shape.heads],
      args: [...headArguments(node, to, shape), ...node.outputs.map((value) => pointer(to.address(value)))],
    });
  },
  attention_grad(node, to) {
    if (attentionGradByCudnn(node, to)) return;
    const shape = shapeOf(node);
    const [o, lse, dout] = node.inputs.slice(5) as [Value, Value, Value];
    const [dq, dk, dv] = node.outputs.map((value) => pointer(to.address(value)));
    const tiles = tiled(node, to, shape);
    const other = plain(node.inputs[0]!, shape.headDim);
    const rowsRead = tiles
      ? [pointer(statistics(node, to, shape))]
      : [pointer(to.address(lse)), pointer(delta(node, to, shape, o, dout))];
    const args = [...headArguments(node, to, shape), ...rowsRead, pointer(to.address(dout))];
    const gradQ = tiles?.gradQ ?? other;
    to.launch({
      ...gradQ,
      kernel: "attention_grad_q",
      grid: [Math.ceil(shape.tokens / gradQ.rows), shape.heads],
      args: [...args, dq!],
    });
    for (const gradKv of tiles?.gradKv ?? [other]) {
      to.launch({
        ...gradKv,
        kernel: "attention_grad_kv",
        grid: [Math.ceil(shape.tokens / gradKv.rows), shape.kvHeads],
        args: [...args, dk!, dv!],
      });
    }
  },
};
