import type { Node, Value } from "../../graph/graph.ts";
import { GraphError } from "../../graph/types.ts";
import { cType, type Defines, float, int, type KernelArgument, long, pointer } from "./kernels.ts";
import { colsOf, floatOf, type Lower, type Lowering, rowsOf, rowThreads, typed } from "./lowering.ts";

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

/** The f32 kernels: any type and head size (kernels/attention.cu). */
function plain(node: Node, shape: Shape): { file: string; defines: Defines; warps: number } {
  const DP = 32 * Math.ceil(shape.headDim / 32);
  return { file: "attention", defines: { ...typed(node.inputs[0]!), DP }, warps: DP > 128 ? 4 : 8 };
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
  attention(node, to) {
    const shape = shapeOf(node);
    const { file, defines, warps } = plain(node, shape);
    const outputs = node.outputs.map((value) => pointer(to.address(value)));
    to.launch({
      file,
      defines,
      kernel: "attention",
      grid: [Math.ceil(shape.tokens / warps), shape.heads],
      threads: 32 * warps,
      args: [...headArguments(node, to, shape), ...outputs],
    });
  },
  attention_grad(node, to) {
    const shape = shapeOf(node);
    const [o, lse, dout] = node.inputs.slice(5) as [Value, Value, Value];
    const [dq, dk, dv] = node.outputs.map((value) => pointer(to.address(value)));
    const { file, defines, warps } = plain(node, shape);
    const rest = [pointer(to.address(lse)), pointer(delta(node, to, shape, o, dout)), pointer(to.address(dout))];
    const head = headArguments(node, to, shape);
    const blocks = Math.ceil(shape.tokens / warps);
    const common = { file, defines, threads: 32 * warps };
    const kernel = "attention_grad_q";
    to.launch({ ...common, kernel, grid: [blocks, shape.heads], args: [...head, ...rest, dq!] });
    const grid = [blocks, shape.kvHeads] as const;
    to.launch({ ...common, kernel: "attention_grad_kv", grid, args: [...head, ...rest, dk!, dv!] });
  },
  kv_write(node, to) {
    const [x, slots, cache] = node.inputs as [Value, Value, Value];
    const pointers = [x, slots, cache].map((value) => pointer(to.address(value)));
    to.launch({
      file: "cache",
      defines: { ...typed(x), C: cType(floatOf(cache)) },
      kernel: "kv_write",
      grid: [rowsOf(x)],
      threads: rowThreads(colsOf(x)),
      args: [long(colsOf(x)), long(rowsOf(cache)), ...pointers],
    });
  },
  attention_cached(node, to) {
    const { tokens, heads, kvHeads, headDim } = shapeOf(node);
    const [q, keys, values, rows, lengths] = node.inputs as [Value, Value, Value, Value, Value];
    const { maxLength, scale, window, softcap } = node.attrs as Record<string, number>;
    const pointers = [q, keys, values].map((value) => pointer(to.address(value)));
    const visible = [rows, lengths].map((value) => pointer(to.address(value)));
    to.launch({
      file: "cache",
      defines: { ...typed(q), C: cType(floatOf(keys)) },
      kernel: "attention_cached",
      grid: [heads, tokens],
      threads: 128,
      args: [
        int(heads), int(kvHeads), int(headDim), ...pointers, int(maxLength!), long(rowsOf(keys)), ...visible,
        float(scale!), int(window!), float(softcap!), pointer(to.address(node.outputs[0])),
      ],
    }); // biome-ignore format: in the groups of the kernel's signature
  },
};
