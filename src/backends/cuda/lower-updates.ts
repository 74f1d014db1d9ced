import type { Node, Value } from "../../graph/graph.ts";
import { int, long, pointer } from "./kernels.ts";
import { type Lower, type Lowering, padded, size } from "./lowering.ts";

/** Tensors that one launch takes, and elements of a block (MANY and BLOCK of optim.cu). */
const MANY = 56;
const BLOCK = 256;
/** Blocks a multiprocessor. */
const BLOCKS = 16;

/** Steps that write tensors only, each its own, so that many can be one launch. */
const UPDATES: Readonly<Record<string, { readonly tensors: number }>> = {
  adamw: { tensors: 4 },
  adamw8bit: { tensors: 6 },
  clear: { tensors: 1 },
};

/**
 * The end of the run of updates that begins at a step; the step itself when it is none. Within it updates can go before all
 * clears: no tensor is updated twice, and no gradient read after it was cleared.
 */
export function updatesFrom(steps: readonly Node[], from: number): number {
  const written = new Set<Value>();
  const cleared = new Set<Value>();
  let end = from;
  for (; end < steps.length; end++) {
    const { op, inputs } = steps[end]!;
    const target = inputs[0]!;
    if (!UPDATES[op.name] || written.has(target) || cleared.has(target)) break;
    if (op.name === "clear") cleared.add(target);
    else if (cleared.has(inputs[1]!)) break;
    else written.add(target);
  }
  return end;
}

/** Launches of a run of updates: those with the same attributes and shared inputs together, then all clears. */
export function lowerUpdates(nodes: readonly Node[], to: Lowering): void {
  const groups = new Map<string, Node[]>();
  for (const node of nodes) {
    const shared = node.inputs.slice(UPDATES[node.op.name]!.tensors);
    const key = [node.op.name, node.attrs.decay, ...shared.map((value) => value?.id)].join();
    groups.set(key, [...(groups.get(key) ?? []), node]);
  }
  const order = [...groups.values()].sort(
    (a, b) => Number(a[0]!.op.name === "clear") - Number(b[0]!.op.name === "clear"),
  );
  for (const group of order) {
    for (let from = 0; from < group.length; from += MANY) launchUpdates(group.slice(from, from + MANY), to);
  }
}

function launchUpdates(nodes: readonly Node[], to: Lowering): void {
  const { op, inputs, attrs } = nodes[0]!;
  const { tensors } = UPDATES[op.name]!;
  const sizes = nodes.map((node) => (op.name === "clear" ? node.inputs[0]!.bytes / 4 : size(node.inputs[0]!)));
  let blocks = 0;
  const first = sizes.map((n) => {
    const at = blocks;
    blocks += Math.ceil(n / BLOCK);
    return at;
  });
  const columns = Array.from({ length: tensors }, (_, i) =>
    padded(
      MANY,
      nodes.map((node) => pointer(to.address(node.inputs[i]))),
    ),
  );
  const shared = inputs.slice(tensors).map((value) => pointer(to.address(value)));
  to.launch({
    file: "optim",
    defines: {},
    kernel: op.name,
    grid: [Math.min(blocks, BLOCKS * to.multiprocessors)],
    threads: BLOCK,
    args: [
      ...columns.flat(), ...padded(MANY, sizes.map(long)), ...padded(MANY, first.map(long)), long(nodes.length), long(blocks),
      ...shared, ...(op.name === "clear" ? [] : [int(attrs.decay as boolean)]),
    ],
  }); // biome-ignore format: in the groups of the kernel's signature
}

const alone: Lower = (node, to) => lowerUpdates([node], to);

/** Optimizer steps; runs of them are joined where a program is prepared. */
export const LOWER_UPDATES: Readonly<Record<string, Lower>> = { adamw: alone, adamw8bit: alone, clear: alone };
