import type { Node, Value } from "../../graph/graph.ts";
import { sharedLimit } from "./attention-tiles.ts";
import { cType, float, int, type KernelArgument, pointer } from "./kernels.ts";
import { colsOf, floatOf, type Lowering, number, rowsOf } from "./lowering.ts";

/** Tensor cores with bf16 (Ampere). */
export const MMA_CAPABILITY = 80;
/** Rows up to which streaming the weights once every 32 rows beats decoding them for a library product. */
export const MOST_ROWS = { nf4: 64, bf16: 32 } as const;
/** Rank up to which a LoRA's A is a narrow weight. */
const NARROW = 256;

/** Whether products of one A, of the same kind, can be made by the kernels for few rows (gemv.cu). */
export function fewRows(nodes: readonly Node[], to: Lowering): boolean {
  if (to.computeCapability < MMA_CAPABILITY) return false;
  if (nodes.every(isNarrow)) return true;
  const [first] = nodes.map((node) => node.inputs[1]!);
  return nodes.every((node) => isWide(node, to) && isNested(node.inputs[1]!, to) === isNested(first!, to));
}

/** Whether a weight's scales are quantised too. */
function isNested(weight: Value, to: Lowering): boolean {
  return weight.dtype === "nf4" && to.tensor(weight).quantization!.doubleQuant;
}

/** The launch for products that `fewRows` accepted. */
export function lowerFewRows(nodes: readonly Node[], to: Lowering): void {
  if (isNarrow(nodes[0]!)) lowerNarrow(nodes, to);
  else lowerWide(nodes, to);
}

function isFew({ inputs, attrs }: Node): boolean {
  const a = inputs[0]!;
  return a.dtype === "bf16" && !attrs.transA && attrs.transB === true && a.shape.length === 2;
}

/** x·Wᵀ with 4-bit or bf16 weights, an update riding along. */
function isWide(node: Node, to: Lowering): boolean {
  const [a, b, , , a2, b2] = node.inputs as [Value, Value, ...(Value | null)[]];
  if (!isFew(node) || colsOf(a) % 64 !== 0) return false;
  // The kernel reads them before what runs in front of it has ended.
  const fixed = b.kind === "tensor" && !b.mutable;
  if (!fixed || (b.dtype !== "nf4" && b.dtype !== "bf16")) return false;
  if (rowsOf(a) > MOST_ROWS[b.dtype] || (b.dtype === "nf4" && to.tensor(b).quantization!.blockSize !== 64))
    return false;
  return !a2 || (a2.dtype === "bf16" && b2?.dtype === "f32");
}

/** x·Aᵀ of a LoRA. */
export function isNarrow(node: Node): boolean {
  const [a, b, ...others] = node.inputs as [Value, Value, ...(Value | null)[]];
  if (!isFew(node) || others.some((value) => value) || b.dtype !== "f32") return false;
  return rowsOf(a) <= MOST_ROWS.nf4 && rowsOf(b) <= NARROW && colsOf(a) % 8 === 0;
}

/** How few_rows is compiled: the names of gemv.cu. */
interface Shape {
  readonly MT: number;
  readonly WARPS: number;
  readonly STAGES: number;
  readonly TAIL: number;
}

/** Shapes by rows of x over 8, best first; later ones are for cards whose blocks have less shared memory (163, 99 KiB). */
const SHAPES: Readonly<Record<number, readonly (readonly [MT: number, WARPS: number, STAGES: number, TAIL: number])[]>> = {
  1: [[2, 16, 2, 2], [1, 16, 3, 1], [1, 8, 2, 1]],
  2: [[2, 8, 3, 4], [2, 8, 2, 4], [1, 8, 2, 1]],
  4: [[1, 8, 3, 4], [1, 5, 2, 4]],
}; // biome-ignore format: a table

/** Shared memory that may be the system's, before a block's own. */
const RESERVED = 1024;
const TABLE = 4 * 32 * 256;

const BARRIERS = 128;

/** Dynamic shared memory of few_rows: sums, maps, barriers, the decoding table from a multiple of its size on, slots. */
function sharedBytesOf(nf4: boolean, NT: number, { MT, WARPS, STAGES }: Shape): number {
  const features = 16 * MT;
  const sums = 4 * 2 * (WARPS + 1) * features * (8 * NT + 1);
  const slots = WARPS * STAGES * 128 * features;
  if (!nf4) return sums + BARRIERS + slots;
  const maps = 4 * 3 * 256;
  return TABLE * (Math.ceil((RESERVED + sums + maps + BARRIERS) / TABLE) + 1) + slots;
}

function lowerWide(nodes: readonly Node[], to: Lowering): void {
  const [x, first] = nodes[0]!.inputs as [Value, Value];
  const nf4 = first.dtype === "nf4";
  const [m, k] = [rowsOf(x), colsOf(x)];
  const NT = m <= 8 ? 1 : m <= 16 ? 2 : 4;
  const most = sharedLimit(to.computeCapability);
  const shapes = SHAPES[NT]!.map(([MT, WARPS, STAGES, TAIL]): Shape => ({ MT, WARPS, STAGES, TAIL }));
  const shape = shapes.find((one) => sharedBytesOf(nf4, NT, one) <= most)!;
  const features = 16 * shape.MT;
  const tiles = nodes.reduce((sum, node) => sum + Math.ceil(colsOf(node.outputs[0]!) / features), 0);
  const turns = Math.ceil(m / (8 * NT));
  to.launch({
    file: "gemv",
    defines: {
      NF4: nf4 ? 1 : 0,
      NESTED: isNested(first, to) ? 1 : 0,
      NT,
      ...shape,
      Y: cType(floatOf(nodes[0]!.outputs[0]!)),
    },
    kernel: "few_rows",
    grid: [Math.min(tiles, Math.ceil(to.multiprocessors / turns)), turns],
    threads: 32 * (shape.WARPS + shape.TAIL),
    overlap: true,
    sharedBytes: sharedBytesOf(nf4, NT, shape),
    args: [int(tiles), int(m), int(k), pointer(to.address(x)), ...three(nodes, (node) => part(node, to))],
  });
}

function lowerNarrow(nodes: readonly Node[], to: Lowering): void {
  const x = nodes[0]!.inputs[0]!;
  const alpha = number(nodes[0]!, "alpha");
  const features = nodes.reduce((sum, node) => sum + colsOf(node.outputs[0]!), 0);
  to.launch({
    file: "gemv_narrow",
    defines: { Y: cType(floatOf(nodes[0]!.outputs[0]!)) },
    kernel: "few_narrow",
    grid: [features, Math.ceil(rowsOf(x) / 8)],
    threads: Math.min(512, 32 * Math.ceil(colsOf(x) / 8 / 32)),
    overlap: true,
    args: [
      int(rowsOf(x)), int(colsOf(x)), float(alpha), pointer(to.address(x)),
      ...three(nodes, (node) => narrowPart(node, to)),
    ],
  }); // biome-ignore format: in the groups of the kernel's signature
}
/** The arguments of up to three products, absent ones as zeros. */
export function three(nodes: readonly Node[], words: (node: Node | undefined) => KernelArgument[]): KernelArgument[] {
  return [0, 1, 2].flatMap((i) => words(nodes[i]));
}

/** struct Narrow of gemv_narrow.cu and prepare.cu. */
export function narrowPart(node: Node | undefined, to: Lowering): KernelArgument[] {
  const pointers = [node?.inputs[1], node?.outputs[0]].map((value) => pointer(to.address(value)));
  return [...pointers, int(node ? colsOf(node.outputs[0]!) : 0), int(0)];
}

/** struct Part of gemv.cu. */
function part(node: Node | undefined, to: Lowering): KernelArgument[] {
  const [, b, acc, bias, a2, b2] = (node?.inputs ?? []) as (Value | null)[];
  const tensor = b?.dtype === "nf4" ? to.tensor(b) : null;
  const doubled = tensor?.quantization?.doubleQuant ?? false;
  const [absmax, nested, map] = (["absmax", "nested", "map"] as const).map((name, i) =>
    pointer(tensor && (i === 0 || doubled) ? tensor.address(name) : 0),
  );
  return [
    pointer(tensor ? tensor.address() : to.address(b)), absmax!, nested!, map!,
    ...[bias, acc, a2, b2, node?.outputs[0]].map((value) => pointer(to.address(value))),
    int(node ? colsOf(node.outputs[0]!) : 0), int(a2 ? colsOf(a2) : 0),
    float(tensor?.nestedOffset ?? 0), float(node ? number(node, "alpha") : 0), float(node ? number(node, "alpha2") : 0),
    int(0),
  ]; // biome-ignore format: in the struct's order
}
