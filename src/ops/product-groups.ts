import { type Graph, Node, type Value } from "../graph/graph.ts";
import type { Attrs, Op } from "../graph/op.ts";
import { optimize } from "../graph/optimize.ts";
import { loraGradOf, loraGradOp } from "./lora-grad.ts";
import { chainOf, matmulChainOp } from "./matmul-chain.ts";
import { groupOf, matmulGroupOp } from "./matmul-group.ts";

/** Most products of a group: q, k and v. */
const MOST = 3;
/** A product's narrow side is at most this share of its depth or width: a LoRA's, not a key's. */
const NARROW_SHARE = 16;

/**
 * Rewrites a differentiated graph so that products of layers that share their input (q, k, v; gate, up) read it once:
 * x·A_iᵀ as one step, [x, low]·[W_i, s·B_i]ᵀ as one, the gradients dA_i = dlow_iᵀ·x as one, and the sum that is dx as one.
 * The gradient of a layer's output is read once for both gradients of its low-rank part.
 * For backends that say `groupsProducts`; what is computed stays the same but for the order of sums.
 */
export function groupTrainingProducts(graph: Graph): void {
  optimize(graph);
  joinSharing(graph, "first", (node) => {
    const [a, b] = node.inputs as [Value, Value];
    const { transA, transB } = node.attrs;
    const plain = !transA && transB === true && node.inputs.slice(2).every((value) => !value);
    return node.phase === "forward" && plain && isNarrow(b.shape[0]!, a) ? a : null;
  });
  joinSharing(graph, "first", (node) => {
    const [a, , acc, , a2] = node.inputs;
    const { transA, transB } = node.attrs;
    return node.phase === "forward" && !transA && transB === true && !acc && a2 ? a! : null;
  });
  joinSharing(graph, "last", (node) => {
    const [a, b, , bias, a2] = node.inputs as [Value, Value, ...(Value | null)[]];
    const { transA, transB } = node.attrs;
    return node.phase === "backward" && transA === true && !transB && !bias && !a2 && isNarrow(a.shape[1]!, b)
      ? b
      : null;
  });
  chainSums(graph);
  joinLoraGradients(graph);
}

const isNarrow = (n: number, { shape }: Value): boolean => shape.length === 2 && n * NARROW_SHARE <= shape[1]!;

/**
 * Products for which `shared` gives the same value become one group, where the first (or last) of them was: there all their
 * inputs are known (or none of their outputs read before).
 */
function joinSharing(graph: Graph, where: "first" | "last", shared: (node: Node) => Value | null): void {
  const { made, read } = positions(graph);
  const groups = new Map<string, { at: number; members: Node[] }>();
  graph.nodes.forEach((node, at) => {
    const value = node.op.name === "matmul" ? shared(node) : null;
    if (!value) return;
    const key = `${value.id} ${node.inputs[1]!.dtype} ${node.attrs.dtype}`;
    const group = groups.get(key);
    const fits =
      where === "first"
        ? node.inputs.every((input) => !input || (made.get(input) ?? -1) < (group?.at ?? 0))
        : group?.members.every((member) => (read.get(member.outputs[0]!) ?? graph.nodes.length) > at);
    if (group && group.members.length < MOST && fits) {
      group.members.push(node);
      if (where === "last") group.at = at;
    } else groups.set(`${key} ${group ? at : ""}`.trim(), { at, members: [node] });
  });
  replace(
    graph,
    [...groups.values()].map(({ at, members }) => ({ at, members, op: matmulGroupOp, ...groupOf(members) })),
  );
}

/** dy·B and dyᵀ·low as one step, where the first of them was. */
function joinLoraGradients(graph: Graph): void {
  const { made } = positions(graph);
  const waiting = new Map<string, { node: Node; at: number }>();
  const replacements: Replacement[] = [];
  graph.nodes.forEach((node, at) => {
    const { op, phase, inputs, attrs } = node;
    if (op.name !== "matmul" || phase !== "backward" || attrs.transB || inputs[3] || inputs[4]) return;
    const [dy, other] = inputs as [Value, Value];
    if (dy.shape.length !== 2) return;
    const key = `${dy.id} ${other.shape[1]}`;
    if (!attrs.transA) {
      const narrow = other.shape.length === 2 && other.shape[1]! * NARROW_SHARE <= other.shape[0]!;
      if (narrow && other.dtype === "f32" && !inputs[2] && attrs.dtype === dy.dtype) waiting.set(key, { node, at });
      return;
    }
    const before = waiting.get(key);
    const ready = (value: Value | null) => !value || (made.get(value) ?? -1) < (before?.at ?? 0);
    if (!before || other.dtype !== dy.dtype || attrs.dtype !== "f32" || !inputs.every(ready)) return;
    waiting.delete(key);
    const members = [before.node, node];
    replacements.push({ at: before.at, members, op: loraGradOp, ...loraGradOf(before.node, node) });
  });
  replace(graph, replacements);
}

/** A sum of products, each the next one's `acc` and nothing else, as one step where the last of them was. */
function chainSums(graph: Graph): void {
  const { count } = positions(graph);
  const extended = new Set<Node>();
  const chains = new Map<Node, Node[]>();
  for (const node of graph.nodes) {
    if (!canChain(node)) continue;
    const before = node.inputs[2]?.node;
    const chain = before && count.get(node.inputs[2]!) === 1 ? chains.get(before) : undefined;
    if (chain) extended.add(before!);
    chains.set(node, [...(chain ?? []), node]);
  }
  const whole = [...chains].filter(([node]) => !extended.has(node)).map(([, members]) => members);
  replace(
    graph,
    whole
      // Without low-rank parts to join nothing is gained.
      .filter((members) => members.filter(({ inputs }) => inputs[4]).length > 1)
      .map((members) => {
        const at = graph.nodes.indexOf(members.at(-1)!);
        return { at, members, op: matmulChainOp, ...chainOf(members), onlyLast: true };
      }),
  );
}

function canChain({ op, phase, inputs, attrs }: Node): boolean {
  if (op.name !== "matmul" || phase !== "backward" || attrs.transA || inputs[3] || inputs[0]!.shape.length !== 2)
    return false;
  if (inputs[4] && (attrs.transB || inputs[5]!.dtype !== "f32")) return false;
  return attrs.dtype === inputs[0]!.dtype;
}

function positions(graph: Graph): { made: Map<Value, number>; read: Map<Value, number>; count: Map<Value, number> } {
  const [made, read, count] = [0, 1, 2].map(() => new Map<Value, number>()) as [
    Map<Value, number>,
    Map<Value, number>,
    Map<Value, number>,
  ];
  for (const value of graph.outputs.values()) count.set(value, (count.get(value) ?? 0) + 1);
  graph.nodes.forEach((node, at) => {
    for (const value of node.outputs) made.set(value, at);
    for (const value of node.inputs) {
      if (!value) continue;
      if (!read.has(value)) read.set(value, at);
      count.set(value, (count.get(value) ?? 0) + 1);
    }
  });
  return { made, read, count };
}

interface Replacement {
  readonly at: number;
  readonly members: readonly Node[];
  readonly op: Op;
  readonly inputs: readonly (Value | null)[];
  readonly attrs: Attrs;
  /** The last member's output is the only one. */
  readonly onlyLast?: boolean;
}

/** Put one node in the place of several, and its outputs in that of theirs. */
function replace(graph: Graph, replacements: readonly Replacement[]): void {
  const dropped = new Set<Node>();
  const better = new Map<Value, Value>();
  for (const { at, members, op, inputs, attrs, onlyLast } of replacements) {
    if (members.length < 2) continue;
    const { scope, phase } = members[0]!;
    const resolved = inputs.map((value) => value && (better.get(value) ?? value));
    const node = new Node(graph, op, resolved, attrs, { scope: onlyLast ? members.at(-1)!.scope : scope, phase });
    for (const member of members) dropped.add(member);
    const replaced = onlyLast ? members.slice(-1) : members;
    replaced.forEach((member, i) => better.set(member.outputs[0]!, node.outputs[i]!));
    dropped.delete(graph.nodes[at]!);
    graph.nodes[at] = node;
  }
  if (better.size === 0) return;
  for (const node of graph.nodes) {
    if (node.inputs.some((value) => value && better.has(value))) {
      node.inputs = node.inputs.map((value) => value && (better.get(value) ?? value));
    }
  }
  for (const [name, value] of graph.outputs) graph.outputs.set(name, better.get(value) ?? value);
  for (const value of [...graph.boundaries]) {
    const other = better.get(value);
    if (!other) continue;
    graph.boundaries.delete(value);
    graph.boundaries.add(other);
  }
  const kept = graph.nodes.filter((node) => !dropped.has(node));
  graph.nodes.splice(0, graph.nodes.length, ...kept);
}
