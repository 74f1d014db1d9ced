import type { Graph, Node, Value } from "./graph.ts";
import { checkUpdates, tensorContents } from "./optimize.ts";

/** Which memory a block is part of: the device arena, or host memory that activations are offloaded to. */
export type Pool = "arena" | "host";

/** What a block is there for; the memory drawing colours by it. */
export type BlockRole = "input" | "saved" | "temporary" | "gradient" | "recomputed" | "output" | "workspace";

/** A stretch of memory, held from step `start` to step `end` (both included) by one value after another. */
export interface Block {
  readonly bytes: number;
  readonly start: number;
  end: number;
  readonly pool: Pool;
  role: BlockRole;
  readonly name: string;
}

/** Where every value of a schedule lives and for how long. */
export interface Liveness {
  readonly blocks: readonly Block[];
  /** Block of each computed or input value; values that are a tensor's content are in `contents` instead. */
  readonly blockOf: ReadonlyMap<Value, Block>;
  readonly contents: ReadonlyMap<Value, Value>;
  /** Workspace block of each step that has one. */
  readonly workspaces: ReadonlyMap<Node, Block>;
}

/** Workspace a node needs on the backend, in bytes. */
export type WorkspaceOf = (node: Node) => number;

/** Sizes are rounded up to this, so that every block starts aligned for vector loads and CUDA's copies. */
export const ALIGNMENT = 256;
export const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/**
 * Lifetimes of all values of `steps`, with in-place rules applied where an input dies and views folded into what they
 * show. Inputs and outputs are held for the whole program.
 *
 * `readers` are the nodes that alone read a value where nothing is recomputed: a forward product, or its repetition, is
 * written over nothing else. A library may round a sum onto its own addend otherwise than one onto another array, so this must
 * not hang on what else the program does: what the planner gives up must not show in the gradients, nor a model that is
 * differentiated differ from the same one that is not (a preference loss would not begin at ln 2).
 */
export function analyseLiveness(
  graph: Graph,
  steps: readonly Node[],
  workspaceOf: WorkspaceOf,
  readers: ReadonlyMap<Value, Node | null>,
): Liveness {
  const contents = tensorContents(steps);
  checkUpdates(steps, contents);
  const shown = new Map<Value, Value>();
  for (const node of steps) if (node.op.view) shown.set(node.outputs[0]!, node.inputs[0]!);
  const root = (value: Value): Value => {
    let current = value;
    for (let next = shown.get(current); next; next = shown.get(current)) current = next;
    return current;
  };

  const lastUse = new Map<Value, number>();
  steps.forEach((node, at) => {
    for (const value of node.inputs) if (value) lastUse.set(root(value), at);
  });
  for (const value of graph.outputs.values()) lastUse.set(root(value), steps.length);

  const blocks: Block[] = [];
  const blockOf = new Map<Value, Block>();
  const workspaces = new Map<Node, Block>();
  const open = (value: Value, start: number, role: BlockRole, end: number): void => {
    const pool: Pool = value.node?.op.name === "offload" ? "host" : "arena";
    const block: Block = { bytes: aligned(value.bytes), start, end, pool, role, name: value.name };
    blocks.push(block);
    blockOf.set(value, block);
  };
  for (const value of graph.inputs.values()) open(value, -1, "input", steps.length);

  const mayCover = (node: Node, source: Value): boolean => {
    if (!node.op.placeMatters || (node.phase !== "forward" && !node.recomputeOf)) return true;
    const original = source.node?.recomputeOf?.outputs[source.index] ?? source;
    return readers.get(original) === (node.recomputeOf ?? node);
  };

  steps.forEach((node, at) => {
    const bytes = workspaceOf(node);
    if (bytes > 0) {
      const block: Block = {
        bytes: aligned(bytes),
        start: at,
        end: at,
        pool: "arena",
        role: "workspace",
        name: `${node.op.name} workspace`,
      };
      blocks.push(block);
      workspaces.set(node, block);
    }
    if (node.op.view) return;
    const pairs = node.op.inPlace?.(node) ?? [];
    const taken = new Set<Block>();
    node.outputs.forEach((value, index) => {
      if (contents.has(value)) return;
      const end = lastUse.get(value) ?? at;
      for (const [output, input] of pairs) {
        const source = output === index && node.inputs[input] ? root(node.inputs[input]) : null;
        const block = source?.kind === "computed" ? blockOf.get(source) : undefined;
        if (!source || !block || taken.has(block) || block.pool === "host") continue;
        if (lastUse.get(source) !== at || source.bytes !== value.bytes || !mayCover(node, source)) continue;
        if (node.inputs.filter((v) => v && blockOf.get(root(v)) === block).length !== 1) continue;
        taken.add(block);
        block.end = Math.max(block.end, end);
        blockOf.set(value, block);
        if (block.role === "temporary" || block.role === "recomputed") block.role = roleOf(node);
        return;
      }
      open(value, at, roleOf(node), end);
    });
  });
  for (const [value, shows] of shown) {
    const block = blockOf.get(root(shows));
    if (block) blockOf.set(value, block);
  }
  for (const value of graph.outputs.values()) {
    const block = blockOf.get(value);
    if (block) block.role = "output";
  }
  markSaved(steps, blockOf);
  return { blocks, blockOf, contents, workspaces };
}

/** The node that reads a value, itself or as a view, where it is the only one; else null. */
export function onlyReaders(nodes: readonly Node[]): Map<Value, Node | null> {
  const readers = new Map<Value, Node | null>();
  for (const node of nodes) {
    if (node.op.view) continue;
    for (const input of node.inputs) {
      let value = input;
      while (value) {
        readers.set(value, readers.has(value) && readers.get(value) !== node ? null : node);
        value = value.node?.op.view ? value.node.inputs[0]! : null;
      }
    }
  }
  return readers;
}

function roleOf(node: Node): BlockRole {
  if (node.recomputeOf) return "recomputed";
  return node.phase === "backward" ? "gradient" : "temporary";
}

function markSaved(steps: readonly Node[], blockOf: ReadonlyMap<Value, Block>): void {
  const firstBackward = steps.findIndex((node) => node.phase === "backward");
  if (firstBackward < 0) return;
  for (const block of new Set(blockOf.values())) {
    if (block.role === "temporary" && block.start < firstBackward && block.end >= firstBackward) block.role = "saved";
  }
}

/** Bytes live at every step of a pool, and the highest. */
export function liveBytes(
  liveness: Liveness,
  steps: number,
  pool: Pool,
): { timeline: Float64Array; peak: number; at: number } {
  const timeline = new Float64Array(steps + 1);
  for (const block of liveness.blocks) {
    if (block.pool !== pool) continue;
    timeline[Math.max(0, block.start)]! += block.bytes;
    if (block.end + 1 <= steps) timeline[block.end + 1]! -= block.bytes;
  }
  let peak = 0;
  let at = 0;
  let live = 0;
  for (let i = 0; i < steps; i++) {
    live += timeline[i]!;
    timeline[i] = live;
    if (live > peak) [peak, at] = [live, i];
  }
  return { timeline: timeline.subarray(0, steps), peak, at };
}
