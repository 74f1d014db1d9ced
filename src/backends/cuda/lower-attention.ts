import type { Node, Value } from "../../graph/graph.ts";
import { GraphError } from "../../graph/types.ts";
import { type Defines, float, int, type KernelArgument, pointer } from "./kernels.ts";
import { attentionByCudnn, attentionGradByCudnn } from "./lower-cudnn.ts";
import { LOWER_DECODE } from "./lower-decode.ts";
import { type Lower, type Lowering, number, rowsOf, typed } from "./lowering.ts";

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

/** Which kernels to use, how many rows a block has and how many bytes of shared memory it asks for. */
interface Choice {
  readonly file: string;
  readonly defines: Defines;
  readonly rows: number;
  readonly threads: number;
  readonly shared: { readonly forward: number; readonly gradQ: number; readonly gradKv: number };
}

const MMA_CAPABILITY = 80;
const MMA_ROWS = 64;

/** The tensor cores' kernels where they can be used (attention_mma.cu), else those in f32 (attention.cu). */
function choose(node: Node, to: Lowering, { headDim }: Shape): Choice {
  const q = node.inputs[0]!;
  if (q.dtype === "bf16" && to.computeCapability >= MMA_CAPABILITY && headDim % 16 === 0 && headDim <= 128) {
    const row = 2 * (headDim + 8);
    const shared = { forward: 256 * row, gradQ: 256 * row, gradKv: 192 * row };
    const defines = { D: headDim, CAP: number(node, "softcap") > 0 ? 1 : 0 };
    return { file: "attention_mma", defines, rows: MMA_ROWS, threads: 128, shared };
  }
  const DP = 32 * Math.ceil(headDim / 32);
  const rows = DP > 128 ? 4 : 8;
  const shared = { forward: 0, gradQ: 0, gradKv: 0 };
  return { file: "attention", defines: { ...typed(q), DP }, rows, threads: 32 * rows, shared };
}

function delta(node: Node, to: Lowering, { tokens, heads, headDim }: Shape, o: Value, dout: Value): number {
  const out = to.scratch(4 * tokens * heads);
  const shape = [int(tokens), int(heads), int(headDim)];
  to.launch({
    file: "attention",
    defines: { ...typed(node.inputs[0]!), DP: 32 * Math.ceil(headDim / 32) },
    kernel: "attention_delta",
    grid: [Math.ceil((tokens * heads) / 8)],
    threads: 256,
    args: [...shape, pointer(to.address(o)), pointer(to.address(dout)), pointer(out)],
  });
  return out;
}

/** Attention over packed tokens and against a cache. */
export const LOWER_ATTENTION: Readonly<Record<string, Lower>> = {
  ...LOWER_DECODE,
  attention(node, to) {
    if (attentionByCudnn(node, to)) return;
    const shape = shapeOf(node);
    const { file, defines, rows, threads, shared } = choose(node, to, shape);
    const outputs = node.outputs.map((value) => pointer(to.address(value)));
    to.launch({
      file,
      defines,
      kernel: "attention",
      grid: [Math.ceil(shape.tokens / rows), shape.heads],
      threads,
      sharedBytes: shared.forward,
      args: [...headArguments(node, to, shape), ...outputs],
    });
  },
  attention_grad(node, to) {
    if (attentionGradByCudnn(node, to)) return;
    const shape = shapeOf(node);
    const [o, lse, dout] = node.inputs.slice(5) as [Value, Value, Value];
    const [dq, dk, dv] = node.outputs.map((value) => pointer(to.address(value)));
    const { file, defines, rows, threads, shared } = choose(node, to, shape);
    const rest = [pointer(to.address(lse)), pointer(delta(node, to, shape, o, dout)), pointer(to.address(dout))];
    const head = headArguments(node, to, shape);
    const blocks = Math.ceil(shape.tokens / rows);
    to.launch({
      file,
      defines,
      kernel: "attention_grad_q",
      grid: [blocks, shape.heads],
      threads,
      sharedBytes: shared.gradQ,
      args: [...head, ...rest, dq!],
    });
    to.launch({
      file,
      defines,
      kernel: "attention_grad_kv",
      grid: [blocks, shape.kvHeads],
      threads,
      sharedBytes: shared.gradKv,
      args: [...head, ...rest, dk!, dv!],
    });
  },
};
