import type { Node, Value } from "../../graph/graph.ts";
import type { Program } from "../../graph/program.ts";
import type { CudnnPlan } from "./cudnn.ts";
import type { CudnnAttention } from "./cudnn-attention.ts";
import { type SdpaShape, sdpaBackward, sdpaForward, UID } from "./cudnn-graph.ts";
import type { Command } from "./device.ts";
import type { DevicePointer } from "./driver.ts";
import { float, int, pointer } from "./kernels.ts";
import { type Lowering, rowsOf, typed } from "./lowering.ts";
import type { Packing } from "./packing.ts";
import { MAX_SEQUENCES } from "./sequence-arrays.ts";

/** The sequences of a run, and the inputs that give them. */
export interface Packed {
  readonly seqStart: Value;
  readonly seqEnd: Value;
  readonly packing: Packing;
}

/** What lowering attention by cuDNN needs besides what all nodes do. */
export interface CudnnLowering {
  readonly attention: CudnnAttention;
  /** Null when the run's sequences are not known; "any" while workspaces are sized. */
  readonly packed: Packed | "any" | null;
  enqueue(command: Command): void;
}

const MAX_HEAD_DIM = 128;
const MIB = 2 ** 20;
/** Descriptors of tensors that forward engines write. */
const FORWARD_SCRATCH = MIB;
/**
 * Most memory for what backward engines store between their kernels (dS, and gradients of each query head), in all and for
 * each token. With less, heads go in more parts: on an H100 eight parts take a third longer than one.
 */
const BACKWARD_SCRATCH = 1280 * MIB;
const BACKWARD_TOKEN_SCRATCH = MIB / 8;
/** Room that sequences may have, in tokens of the batch. Empty blocks cost nothing forward; backward they do. */
const FORWARD_ROOM = 64;
const BACKWARD_ROOM = 4;
/** Room from which gradients are faster than by own kernels. */
const BACKWARD_LENGTH = 512;
/** Tokens from which programs without gradients are worth plans. */
const FEWEST_TOKENS = 4096;

type Key = keyof typeof UID;

/** Whether some step's attention may run by the library: in training, and where there are many tokens. */
export function wantsCudnn(program: Program): boolean {
  return program.steps.some(({ op: { name }, inputs, attrs }) => {
    const worth = name === "attention_grad" || (name === "attention" && rowsOf(inputs[0]!) >= FEWEST_TOKENS);
    return worth && suits({ inputs, attrs });
  });
}

/** Whether the library has engines for a node whatever its sequences are. */
function suits({ inputs, attrs }: Pick<Node, "inputs" | "attrs">): boolean {
  const { headDim, softcap, causal } = attrs as Record<string, number | boolean>;
  return (
    inputs[0]!.dtype === "bf16" &&
    (headDim as number) % 8 === 0 &&
    (headDim as number) <= MAX_HEAD_DIM &&
    softcap === 0 &&
    Boolean(causal)
  );
}

/** The shape of a node's attention over a run's sequences; null where own kernels have to do it. */
function shapeOf(node: Node, packed: Packed, room: number): SdpaShape | null {
  const { packing, seqStart, seqEnd } = packed;
  const [q, , , start, end] = node.inputs;
  const { heads, kvHeads, headDim, window } = node.attrs as Record<string, number>;
  const tokens = rowsOf(q!);
  const { batch, length, longest, equal } = packing;
  if (start !== seqStart || end !== seqEnd || (window! > 0 && window! < longest)) return null;
  if (batch > MAX_SEQUENCES || batch * length > room * Math.max(tokens, length)) return null;
  return {
    dtype: "bf16",
    batch,
    length,
    ragged: !equal,
    heads: heads!,
    kvHeads: kvHeads!,
    headDim: headDim!,
    tokens,
    queryWidth: heads! * headDim!,
    keyWidth: kvHeads! * headDim!,
  };
}

/** Addresses of the arrays that sequences are given by; null when they have none. */
function sequencePointers(attention: CudnnAttention, shape: SdpaShape): [Key, DevicePointer][] | null {
  if (!shape.ragged) return [];
  const { arrays } = attention;
  const { tokens } = shape;
  const starts = [shape.queryWidth, shape.keyWidth, 1].map((width) => arrays.starts(width, tokens));
  if (starts.includes(null)) return null;
  const [queryStarts, keyStarts, tokenStarts] = starts as DevicePointer[];
  return [["lengths", arrays.lengths], ["queryStarts", queryStarts!], ["keyStarts", keyStarts!], ["tokenStarts", tokenStarts!]]; // biome-ignore format: one list
}

function run(to: CudnnLowering, plan: CudnnPlan, arrays: [Key, number | bigint][], scratch: DevicePointer): void {
  const { cudnn } = to.attention;
  const known = new Map<number, number | bigint>(arrays.map(([name, at]) => [UID[name], at]));
  const infinity = to.attention.number(Number.NEGATIVE_INFINITY);
  const pointers = new Map(plan.uids.map((uid) => [uid, known.get(uid) ?? infinity]));
  to.enqueue(() => cudnn.execute(plan, pointers, scratch));
}

const single = (node: Node, shape: SdpaShape) => ({
  file: "attention_single",
  defines: typed(node.inputs[0]!),
  grid: [Math.ceil(shape.tokens / 8)] as const,
  threads: 256,
});

/** Enqueue a node's attention, if the library has a plan for it; else nothing, and false. */
export function attentionByCudnn(node: Node, to: Lowering): boolean {
  const around = to.cudnn;
  if (!around?.packed || !suits(node)) return false;
  const scratch = to.scratch(FORWARD_SCRATCH);
  if (around.packed === "any") return false;
  const { attention } = around;
  const shape = shapeOf(node, around.packed, FORWARD_ROOM);
  const plan = shape && attention.plan("forward", shape, sdpaForward, FORWARD_SCRATCH);
  const sequences = plan && sequencePointers(attention, shape);
  if (!sequences) return false;
  const [q, k, v, seqStart, seqEnd] = node.inputs.map((value) => to.address(value));
  const [o, lse] = node.outputs.map((value) => to.address(value));
  const { heads, kvHeads, headDim, scale } = node.attrs as Record<string, number>;
  const arrays: [Key, number | bigint][] = [["q", q!], ["k", k!], ["v", v!], ["o", o!], ["lse", lse!]]; // biome-ignore format: one list
  run(around, plan, [...arrays, ...sequences, ["scale", attention.number(scale!)]], scratch);
  if (shape.ragged) {
    const head = [int(shape.tokens), int(heads!), int(kvHeads!), int(headDim!), pointer(seqStart!), pointer(seqEnd!)];
    const rest = [pointer(q!), pointer(k!), pointer(v!), float(scale!), pointer(o!), pointer(lse!)];
    to.launch({ ...single(node, shape), kernel: "attention_single", args: [...head, ...rest] });
  }
  return true;
}

type Sizes = Pick<SdpaShape, "batch" | "length" | "heads" | "kvHeads" | "headDim">;

/** Bytes that gradients of `kvHeads` heads of keys need: dS, gradients of each query head, Σ do·o. */
function backwardBytes(shape: Sizes, kvHeads: number): { stored: number; delta: number } {
  const heads = kvHeads * (shape.heads / shape.kvHeads);
  const rows = shape.batch * heads * shape.length;
  const each = heads === kvHeads ? 0 : 4 * rows * shape.headDim;
  return { stored: 2 * rows * shape.length + each + MIB, delta: 4 * rows };
}

/** Memory to have ready for a node's gradients, whatever its sequences are. */
function backwardScratch(node: Node): number {
  const { heads, kvHeads, headDim } = node.attrs as Record<string, number>;
  const tokens = rowsOf(node.inputs[0]!);
  const length = Math.max(128, 2 ** Math.ceil(Math.log2(tokens)));
  const sizes = { heads: heads!, kvHeads: kvHeads!, headDim: headDim!, length };
  const { stored, delta } = backwardBytes({ ...sizes, batch: BACKWARD_ROOM }, kvHeads!);
  return Math.min(BACKWARD_SCRATCH, BACKWARD_TOKEN_SCRATCH * tokens, stored + delta);
}

/** The same for its gradients; heads in as many parts as memory asks for. */
export function attentionGradByCudnn(node: Node, to: Lowering): boolean {
  const around = to.cudnn;
  if (!around?.packed || !suits(node)) return false;
  const bytes = backwardScratch(node);
  const scratch = to.scratch(bytes);
  if (around.packed === "any") return false;
  const { attention } = around;
  const whole = shapeOf(node, around.packed, BACKWARD_ROOM);
  if (!whole || whole.length < BACKWARD_LENGTH) return false;
  const fits = (kvHeads: number): boolean => {
    const { stored, delta } = backwardBytes(whole, kvHeads);
    return whole.kvHeads % kvHeads === 0 && stored + delta <= bytes;
  };
  const kvHeads = Array.from({ length: whole.kvHeads }, (_, i) => whole.kvHeads - i).find(fits);
  if (!kvHeads) return false;
  const heads = kvHeads * (whole.heads / whole.kvHeads);
  const shape = { ...whole, heads, kvHeads };
  const { delta } = backwardBytes(whole, kvHeads);
  const plan = attention.plan("backward", shape, sdpaBackward, bytes - delta);
  const sequences = plan && sequencePointers(attention, shape);
  if (!sequences) return false;
  const [q, k, v, seqStart, seqEnd, o, lse, dout] = node.inputs.map((value) => to.address(value));
  const [dq, dk, dv] = node.outputs.map((value) => to.address(value));
  const { scale, headDim } = node.attrs as Record<string, number>;
  for (let part = 0; part < whole.kvHeads / kvHeads; part++) {
    const [query, key] = [2 * part * heads * headDim!, 2 * part * kvHeads * headDim!];
    const rows: [Key, number | bigint][] = [
      ["q", q! + query], ["o", o! + query], ["dout", dout! + query], ["dq", dq! + query],
      ["k", k! + key], ["v", v! + key], ["dk", dk! + key], ["dv", dv! + key],
      ["lse", lse! + 4 * part * heads * shape.tokens], ["delta", scratch],
      ["scale", attention.number(scale!)], ["one", attention.number(1)],
    ]; // biome-ignore format: a table
    run(around, plan, [...rows, ...sequences], scratch + delta);
  }
  if (shape.ragged) {
    const head = [whole.tokens, whole.heads, whole.kvHeads, headDim!].map(int);
    const rest = [seqStart, seqEnd, dout, dq, dk, dv].map((address) => pointer(address!));
    to.launch({ ...single(node, whole), kernel: "attention_single_grad", args: [...head, ...rest] });
  }
  return true;
}
