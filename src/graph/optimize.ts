import type { Graph, Node, Value } from "./graph.ts";
import { GraphError } from "./types.ts";

/**
 * Which mutable tensor each value is the (updated) content of: a tensor's own value, and every output written over one.
 */
export function tensorContents(nodes: readonly Node[]): Map<Value, Value> {
  const contents = new Map<Value, Value>();
  const of = (value: Value): Value | undefined =>
    value.kind === "tensor" && value.mutable ? value : contents.get(value);
  for (const node of nodes) {
    for (const [output, input] of node.op.inPlace?.(node) ?? []) {
      const value = node.inputs[input];
      const tensor = value ? of(value) : undefined;
      if (tensor && !contents.has(node.outputs[output]!)) contents.set(node.outputs[output]!, tensor);
    }
  }
  return contents;
}

/** Nodes that an output or an updated tensor needs, in order. */
export function liveNodes(graph: Graph): Node[] {
  const contents = tensorContents(graph.nodes);
  const needed = new Set<Value>(graph.outputs.values());
  const kept: Node[] = [];
  for (let i = graph.nodes.length - 1; i >= 0; i--) {
    const node = graph.nodes[i]!;
    if (!node.outputs.some((value) => needed.has(value) || contents.has(value))) continue;
    for (const value of node.inputs) if (value) needed.add(value);
    kept.push(node);
  }
  return kept.reverse();
}

/** Drop what nothing needs and apply the ops' own fusions, in place. */
export function optimize(graph: Graph): void {
  let nodes = liveNodes(graph);
  const uses = new Map<Value, number>();
  for (const value of graph.outputs.values()) uses.set(value, (uses.get(value) ?? 0) + 1);
  for (const node of nodes) for (const value of node.inputs) if (value) uses.set(value, (uses.get(value) ?? 0) + 1);
  const absorbed = new Set<Node>();
  for (const node of nodes) {
    for (;;) {
      const fused = node.op.fuse?.(node, (value) => uses.get(value) ?? 0);
      if (!fused) break;
      node.inputs = fused.inputs;
      node.attrs = fused.attrs;
      absorbed.add(fused.absorbed);
    }
  }
  nodes = nodes.filter((node) => !absorbed.has(node));
  graph.nodes.splice(0, graph.nodes.length, ...nodes);
}

/** Throw when a tensor's old content is read after an update: the program would read the new one. */
export function checkUpdates(nodes: readonly Node[], contents: Map<Value, Value>): void {
  const current = new Map<Value, Value>();
  for (const node of nodes) {
    for (const value of node.inputs) {
      const tensor = value && (contents.get(value) ?? (value.kind === "tensor" ? value : undefined));
      if (tensor && (current.get(tensor) ?? tensor) !== value) {
        throw new GraphError(`${node.op.name} in ${node.scope} reads ${value} after it was overwritten`);
      }
    }
    for (const value of node.outputs) {
      const tensor = contents.get(value);
      if (tensor) current.set(tensor, value);
    }
  }
}
