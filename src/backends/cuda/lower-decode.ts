import type { Node, Value } from "../../graph/graph.ts";
import { GraphError } from "../../graph/types.ts";
import { membersOf } from "../../ops/fused-step.ts";
import { cType, float, int, long, pointer } from "./kernels.ts";
import { isNarrow, MMA_CAPABILITY, MOST_ROWS, narrowPart, three } from "./lower-few-rows.ts";
import { colsOf, floatOf, type Lower, type Lowering, number, rowsOf, rowThreads, typed } from "./lowering.ts";

const GLU_ACTIVATIONS = ["silu", "geluTanh", "gelu"];

const MAX_HEAD_DIM = 256;
/** Query heads that a block of attention takes together. */
const MOST_HEADS = 8;
/** Keys of the shortest run that a block takes (SHORTEST of decode_attention.cu), and most runs a token's keys are cut into. */
const SHORTEST_RUN = 64;
const MOST_RUNS = 64;

/** Steps of decoding against a cache. */
export const LOWER_DECODE: Readonly<Record<string, Lower>> = {
  kv_write(node, to) {
    const [x, slots, cache] = node.inputs as [Value, Value, Value];
    const pointers = [x, slots, cache].map((value) => pointer(to.address(value)));
    to.launch({
      file: "cache",
      defines: { ...typed(x), C: cType(floatOf(cache)) },
      kernel: "kv_write",
      grid: [rowsOf(x)],
      threads: rowThreads(colsOf(x)),
      overlap: true,
      args: [long(colsOf(x)), long(rowsOf(cache)), ...pointers],
    });
  },
  attention_cached(node, to) {
    const [q, keys, values, rows, lengths] = node.inputs as [Value, Value, Value, Value, Value];
    const { heads, kvHeads, headDim: D, maxLength, scale, window, softcap } = node.attrs as Record<string, number>;
    if (D! > MAX_HEAD_DIM) {
      throw new GraphError(`the CUDA backend's attention has heads of up to ${MAX_HEAD_DIM}, found ${D}`);
    }
    const tokens = rowsOf(q);
    const G = headsTogether(heads! / kvHeads!);
    const blocks = heads! / G;
    const wanted = Math.ceil((2 * to.multiprocessors) / (tokens * blocks));
    const splits = Math.max(1, Math.min(wanted, Math.ceil(maxLength! / SHORTEST_RUN), MOST_RUNS));
    const partial = splits > 1 ? to.scratch(4 * tokens * heads! * splits * (D! + 2)) : 0;
    const defines = { ...typed(q), C: cType(floatOf(keys)), D: D!, G };
    const pointers = [q, keys, values].map((value) => pointer(to.address(value)));
    const visible = [long(rowsOf(keys)), ...[rows, lengths].map((value) => pointer(to.address(value)))];
    const ends = [pointer(partial), pointer(to.address(node.outputs[0]))];
    to.launch({
      file: "decode_attention",
      defines,
      kernel: "attention_cached",
      grid: [blocks, tokens, splits],
      threads: 128,
      overlap: true,
      args: [
        int(heads!), int(kvHeads!), ...pointers, int(maxLength!), ...visible,
        float(scale!), int(window!), float(softcap!), int(splits), ...ends,
      ],
    }); // biome-ignore format: in the groups of the kernel's signature
    if (splits === 1) return;
    to.launch({
      file: "decode_attention",
      defines,
      kernel: "attention_join",
      grid: [heads!, tokens],
      threads: 32 * Math.ceil(D! / 32),
      overlap: true,
      args: [int(heads!), int(maxLength!), ...visible, int(window!), int(splits), ...ends],
    });
  },
  sample(node, to) {
    const [logits, settings, draws, rows, seen] = node.inputs as [Value, Value, Value, Value, Value | null];
    const pointers = [logits, settings, draws, rows, seen].map((value) => pointer(to.address(value)));
    to.launch({
      file: "sampling",
      defines: {},
      kernel: "sample",
      grid: [rowsOf(logits)],
      threads: 1024,
      overlap: true,
      args: [
        int(rowsOf(logits)), int(colsOf(logits)), ...pointers, int(seen ? rowsOf(seen) : 0),
        ...node.outputs.slice(0, 2).map((value) => pointer(to.address(value))),
      ],
    }); // biome-ignore format: in the groups of the kernel's signature
  },
};

/** Query heads of a key/value head that a block takes: all, or the largest equal share of at most eight. */
function headsTogether(group: number): number {
  for (let heads = Math.min(group, MOST_HEADS); ; heads--) if (group % heads === 0) return heads;
}

/** Steps of several nodes (ops/fuse-decoding.ts); where no kernel takes one, its nodes are lowered one by one. */
export function fusedLowerings(lowerOne: Lower): Readonly<Record<string, Lower>> {
  const fused = (take: (members: readonly Node[], to: Lowering) => boolean): Lower => {
    return (node, to) => {
      const members = membersOf(node);
      if (!take(members, to)) for (const member of members) to.scoped(() => lowerOne(member, to));
    };
  };
  return {
    norm_narrow: fused(lowerPrepare),
    glu_narrow: fused(lowerPrepare),
    rope_cache: fused(lowerRopeCache),
  };
}

/** Rows that a block of few_prepare takes, and blocks a row is shared by where there are no narrow products. */
const PREPARE_ROWS = 4;
const PREPARE_BLOCKS = 8;

/** An RMS norm or gated unit with the narrow products of what it gives. */
function lowerPrepare([first, ...narrow]: readonly Node[], to: Lowering): boolean {
  const [x, second] = first!.inputs as [Value, Value];
  const [m, k] = [rowsOf(x), colsOf(x)];
  const few = x.dtype === "bf16" && m <= MOST_ROWS.nf4 && k % 8 === 0 && narrow.every(isNarrow);
  if (!few || to.computeCapability < MMA_CAPABILITY) return false;
  const glu = first!.op.name === "glu";
  const features = narrow.reduce((sum, node) => sum + colsOf(node.outputs[0]!), 0);
  const alpha = narrow[0] ? number(narrow[0], "alpha") : 1;
  to.launch({
    file: "prepare",
    defines: { GLU: glu ? 1 : 0 },
    kernel: "few_prepare",
    grid: [Math.max(features, PREPARE_BLOCKS), Math.ceil(m / PREPARE_ROWS)],
    threads: Math.min(glu ? 1024 : 512, 32 * Math.ceil(k / 8 / 32)),
    overlap: true,
    args: [
      int(m), int(k), pointer(to.address(x)), pointer(to.address(second)),
      float(glu ? 0 : number(first!, "eps")), float(glu ? 0 : number(first!, "offset")),
      int(glu ? GLU_ACTIVATIONS.indexOf(first!.attrs.act as string) : 0),
      pointer(to.address(first!.outputs[0])), float(alpha), ...three(narrow, (node) => narrowPart(node, to)),
    ],
  }); // biome-ignore format: in the groups of the kernel's signature
  return true;
}

/** Rotation of q and k, and k and v into the cache. */
function lowerRopeCache([q, k, keys, values]: readonly Node[], to: Lowering): boolean {
  const { heads, headDim, inverse } = q!.attrs as { heads: number; headDim: number; inverse: boolean };
  const [x, table, positions] = q!.inputs as [Value, Value, Value];
  const [v, slots, cache] = values!.inputs as [Value, Value, Value];
  if (inverse || v.dtype !== x.dtype || keys!.inputs[2]!.dtype !== cache.dtype) return false;
  const V = headDim % 16 === 0 ? 8 : 1;
  const addresses = (...list: (Value | null | undefined)[]) => list.map((value) => pointer(to.address(value)));
  const kvHeads = number(k!, "heads");
  to.launch({
    file: "rope_cache",
    defines: { ...typed(x), C: cType(floatOf(cache)), V },
    kernel: "rope_cache",
    grid: [rowsOf(x)],
    threads: Math.min(512, 32 * Math.ceil(((heads + 3 * kvHeads) * headDim) / 2 / V / 32)),
    overlap: true,
    args: [
      int(heads), int(kvHeads), int(headDim), ...addresses(x, k!.inputs[0], v, table), int(rowsOf(table)),
      ...addresses(positions, slots), long(rowsOf(cache)),
      ...addresses(q!.outputs[0], keys!.outputs[0], values!.outputs[0]),
    ],
  }); // biome-ignore format: in the groups of the kernel's signature
  return true;
}
