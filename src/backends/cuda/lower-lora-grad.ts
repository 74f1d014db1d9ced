import type { Node, Value } from "../../graph/graph.ts";
import { loraGradProducts } from "../../ops/lora-grad.ts";
import { sharedLimit } from "./attention-tiles.ts";
import { cType, type Defines, float, int, long, pointer } from "./kernels.ts";
import { colsOf, floatOf, type Lower, type Lowering, number, rowsOf, spread } from "./lowering.ts";

/** Tensor cores that multiply bf16 (Ampere). */
const MMA_CAPABILITY = 80;
/** Rows from which one visit of dy is worth sums of parts. */
const MANY_ROWS = 1024;
const MOST_RANK = 32;
/** Columns and rows of a block's tile, and padding of its rows in elements (lora_grad.cu). */
const [SLAB, ROWS, PAD] = [512, 32, 8];
/** Tiles under way. */
const STAGES = [3, 2] as const;
/** Rows of a run, at least. */
const SHORTEST_RUN = 64;

/** dlow = dy·B and dB = dyᵀ·low: one visit of dy on tensor cores where ranks allow it, else two products. */
export function lowerLoraGrad(node: Node, to: Lowering, lowerProduct: Lower): void {
  const [dy, b, low] = node.inputs as [Value, Value, Value];
  const [rows, n, r] = [rowsOf(dy), colsOf(dy), colsOf(b)];
  const fits = dy.dtype !== "f32" && low.dtype === dy.dtype && b.dtype === "f32" && r % 8 === 0 && n % 8 === 0;
  const sharedBytes = (stages: number): number => 2 * stages * ROWS * (SLAB + r + 2 * PAD) + 4 * 4 * ROWS * r;
  const stages = STAGES.find((count) => sharedBytes(count) <= sharedLimit(to.computeCapability));
  if (!fits || !stages || r > MOST_RANK || rows < MANY_ROWS || to.computeCapability < MMA_CAPABILITY) {
    for (const product of loraGradProducts(node)) to.scoped(() => lowerProduct(product, to));
    return;
  }
  const defines = { T: cType(floatOf(dy)), NR: r / 8, STAGES: stages };
  const slabs = Math.ceil(n / SLAB);
  const runs = Math.max(1, Math.min(Math.floor((2 * to.multiprocessors) / slabs), Math.ceil(rows / SHORTEST_RUN)));
  const run = Math.ceil(rows / runs / ROWS) * ROWS;
  const groups = Math.ceil(rows / run);
  const lowParts = to.scratch(4 * slabs * rows * r);
  const bParts = to.scratch(4 * groups * n * r);
  const at = [dy, b, low].map((value) => pointer(to.address(value)));
  to.launch({
    file: "lora_grad",
    defines,
    kernel: "lora_grad",
    grid: [slabs, groups],
    threads: 256,
    sharedBytes: sharedBytes(stages),
    args: [long(rows), int(n), int(r), long(run), ...at, pointer(lowParts), pointer(bParts)],
  });
  const [dlow, db] = node.outputs.map((value) => pointer(to.address(value)));
  addParts(to, defines, "lora_grad_low", { rows, r, parts: slabs, from: lowParts, alpha: number(node, "alpha0") }, [
    dlow!,
  ]);
  const ends = [pointer(to.address(node.inputs[3])), db!];
  addParts(
    to,
    defines,
    "lora_grad_b",
    { rows: n, r, parts: groups, from: bParts, alpha: number(node, "alpha1") },
    ends,
  );
}

function addParts(
  to: Lowering,
  defines: Defines,
  kernel: string,
  { rows, r, parts, from, alpha }: { rows: number; r: number; parts: number; from: number; alpha: number },
  ends: ReturnType<typeof pointer>[],
): void {
  const args = [long(rows), int(r), int(parts), float(alpha), pointer(from), ...ends];
  spread(to, "lora_grad", defines, kernel, rows * r, args);
}
