import { type Graph, Node, type Value } from "../graph/graph.ts";
import type { Attrs, Op } from "../graph/op.ts";
import { optimize } from "../graph/optimize.ts";
import { traffic } from "./check.ts";
import { matmulOp } from "./matmul.ts";

/** Inputs of a product (see matmulOp). */
const INPUTS = 6;
/** Most products of a group. */
const MOST = 3;

/**
 * Up to three products of the same A, as one step: q, k and v, gate and up. A backend that says so runs them as one
 * kernel. Inputs: those of each matmul in turn; attributes: those of each with its number behind the name.
 */
export const matmulGroupOp: Op = {
  name: "matmul_group",
  infer(inputs, attrs) {
    return Array.from({ length: attrs.count as number }, (_, i) => {
      return matmulOp.infer(inputs.slice(INPUTS * i, INPUTS * (i + 1)), attrsOf(attrs, i))[0]!;
    });
  },
  cost: (node) => ({
    flops: groupMembers(node).reduce((sum, member) => sum + matmulOp.cost!(member).flops, 0),
    bytes: traffic(node),
  }),
  inPlace: (node) =>
    node.outputs.flatMap((_, i) => (node.inputs[INPUTS * i + 2] ? [[i, INPUTS * i + 2] as const] : [])),
  placeMatters: true,
};

type MatmulAttrs = Parameters<typeof matmulOp.infer>[1];
const NAMES = ["transA", "transB", "alpha", "alpha2", "dtype"] as const;
const attrsOf = (attrs: Attrs, i: number): MatmulAttrs =>
  Object.fromEntries(NAMES.map((name) => [name, attrs[`${name}${i}`]!])) as MatmulAttrs;

/** Inputs and attributes of the group of these products. */
export function groupOf(members: readonly Node[]): { inputs: (Value | null)[]; attrs: Attrs } {
  const attrs: Record<string, number | string | boolean> = { count: members.length };
  members.forEach((member, i) => {
    for (const name of NAMES) attrs[`${name}${i}`] = member.attrs[name]!;
  });
  const inputs = members.flatMap((member) => Array.from({ length: INPUTS }, (_, i) => member.inputs[i] ?? null));
  return { inputs, attrs };
}

/** The products of a group as nodes of their own. */
export function groupMembers(node: Node): Node[] {
  const { scope, phase } = node;
  return node.outputs.map((output, i) => {
    const inputs = node.inputs.slice(INPUTS * i, INPUTS * (i + 1));
    return new Node(output.graph, matmulOp as unknown as Op, inputs, attrsOf(node.attrs, i), {
      scope,
      phase,
      outputs: [output],
    });
  });
}

/**
 * Rewrites a forward-only graph: products of one A of which nothing but A is awaited become groups, where the first of
 * them was. Products of different kinds of weights (types, or much narrower than A) stay apart.
 */
export function groupProducts(graph: Graph): void {
  optimize(graph);
  // Each round makes its members' inputs available earlier: first the narrow products, then those that add them.
  for (const narrow of [true, false]) groupRound(graph, narrow);
}

function groupRound(graph: Graph, narrow: boolean): void {
  const position = new Map<Value, number>();
  graph.nodes.forEach((node, at) => {
    for (const value of node.outputs) position.set(value, at);
  });
  const groups = new Map<string, { at: number; members: Node[] }>();
  graph.nodes.forEach((node, at) => {
    const [a, b] = node.inputs;
    if (node.op.name !== "matmul" || !a || !b || node.attrs.transA || !node.attrs.transB) return;
    if (b.shape[0]! * 16 <= b.shape[1]! !== narrow || node.inputs[2]) return;
    const key = `${a.id} ${b.dtype} ${node.attrs.dtype}`;
    const group = groups.get(key);
    const ready = (from: number) => node.inputs.every((value) => !value || (position.get(value) ?? -1) < from);
    if (group && group.members.length < MOST && ready(group.at)) group.members.push(node);
    else groups.set(key, { at, members: [node] });
  });
  const dropped = new Set<Node>();
  for (const { at, members } of groups.values()) {
    if (members.length === 1) continue;
    for (const member of members.slice(1)) dropped.add(member);
    const { inputs, attrs } = groupOf(members);
    const { scope, phase } = members[0]!;
    const outputs = members.map((member) => member.outputs[0]!);
    graph.nodes[at] = new Node(graph, matmulGroupOp, inputs, attrs, { scope, phase, outputs });
  }
  const kept = graph.nodes.filter((node) => !dropped.has(node));
  graph.nodes.splice(0, graph.nodes.length, ...kept);
}
