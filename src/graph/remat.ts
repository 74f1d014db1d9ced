import type { Graph, Node, Value } from "./graph.ts";
import type { Cost, Op } from "./op.ts";

/** Copies a value to host memory, so that its device memory is free until `fetch` brings it back. */
export const offloadOp: Op<Record<string, never>> = {
  name: "offload",
  infer: ([x]) => [{ dtype: x!.dtype, shape: x!.shape }],
  cost: (node) => ({ flops: 0, bytes: node.inputs[0]!.bytes }),
};

/** The way back from host memory. */
export const fetchOp: Op<Record<string, never>> = { ...offloadOp, name: "fetch" };

/** What happens to the activations that the backward phase needs: those in neither set are kept. */
export interface Decisions {
  /** Forward nodes run again in the backward phase instead of keeping their outputs. */
  readonly recompute: ReadonlySet<Node>;
  /** Forward nodes whose outputs wait in host memory. */
  readonly offload: ReadonlySet<Node>;
}

/** A forward node whose outputs the backward phase reads, and the first step that does. */
export interface Saved {
  readonly node: Node;
  /** Bytes of the outputs that are read again. */
  readonly bytes: number;
}

/** Forward nodes with outputs that backward nodes read: what checkpointing has to decide about, in forward order. */
export function savedActivations(nodes: readonly Node[]): Saved[] {
  const bytes = new Map<Node, Set<Value>>();
  for (const node of nodes) {
    if (node.phase !== "backward") continue;
    for (const input of node.inputs) {
      const value = input && behindViews(input);
      if (value?.node?.phase === "forward") bytes.set(value.node, (bytes.get(value.node) ?? new Set()).add(value));
    }
  }
  return nodes
    .filter((node) => bytes.has(node))
    .map((node) => ({ node, bytes: [...bytes.get(node)!].reduce((sum, value) => sum + value.bytes, 0) }));
}

function behindViews(value: Value): Value {
  let current = value;
  while (current.node?.op.view) current = current.node.inputs[0]!;
  return current;
}

/**
 * The schedule under given decisions: recomputed nodes (and whatever they need that was never saved) are repeated right
 * before the first backward node that reads them, offloaded values leave after their producer and come back likewise.
 */
export function applyDecisions(
  graph: Graph,
  nodes: readonly Node[],
  saved: readonly Saved[],
  decisions: Decisions,
): Node[] {
  const { recompute, offload } = decisions;
  if (recompute.size === 0 && offload.size === 0) return nodes.slice();
  const available = new Set(saved.map((s) => s.node).filter((node) => !recompute.has(node)));
  const steps: Node[] = [];
  const hosted = new Map<Value, Value>();
  const restored = new Map<Value, Value>();
  const firstFetchNeeds = new Set<Value>();
  for (const { node } of saved) if (offload.has(node)) for (const out of node.outputs) firstFetchNeeds.add(out);
  const usedLater = valuesReadBackward(nodes);

  const emit = (op: Op, value: Value, phase: "forward" | "backward", like: Node): Value =>
    graph.inPhase(phase, () => {
      const [out] = graph.apply(op, [value], {}, like.scope);
      steps.push(graph.nodes.pop()!);
      return out!;
    });

  const resolve = (value: Value): Value => {
    const producer = value.node;
    if (!producer || producer.phase !== "forward") return value;
    const done = restored.get(value);
    if (done) return done;
    if (producer.op.view && resolve(producer.inputs[0]!) === producer.inputs[0]) return value;
    if (available.has(producer)) {
      const host = hosted.get(value);
      if (!host) return value;
      const back = emit(fetchOp as unknown as Op, host, "backward", producer);
      restored.set(value, back);
      return back;
    }
    const clone = producer.recomputed(
      graph,
      producer.inputs.map((input) => input && resolve(input)),
    );
    steps.push(clone);
    producer.outputs.forEach((output, index) => restored.set(output, clone.outputs[index]!));
    return restored.get(value)!;
  };

  for (const node of nodes) {
    if (node.phase !== "backward") {
      steps.push(node);
      for (const out of node.outputs) {
        if (firstFetchNeeds.has(out) && usedLater.has(out))
          hosted.set(out, emit(offloadOp as unknown as Op, out, "forward", node));
      }
      continue;
    }
    const inputs = node.inputs.map((input) => input && resolve(input));
    steps.push(inputs.every((value, i) => value === node.inputs[i]) ? node : node.withInputs(graph, inputs));
  }
  return steps;
}

function valuesReadBackward(nodes: readonly Node[]): Set<Value> {
  const read = new Set<Value>();
  for (const node of nodes) if (node.phase === "backward") for (const v of node.inputs) if (v) read.add(behindViews(v));
  return read;
}

/** How fast the backend is, to weigh recomputing against copying. */
export interface Rates {
  readonly flopsPerSecond: number;
  readonly bytesPerSecond: number;
  /** Device to host copies; null: the backend has no other memory to offload to. */
  readonly hostBytesPerSecond: number | null;
  /** Whether such copies run beside arithmetic. */
  readonly copiesOverlap?: boolean;
}

/** Estimated seconds of a node: the longer of its arithmetic and its memory traffic. */
export function seconds(cost: Cost, rates: Rates): number {
  return Math.max(cost.flops / rates.flopsPerSecond, cost.bytes / rates.bytesPerSecond);
}

/** Seconds of recomputing `node` from saved activations: its own and those of what it needs that is not saved. */
export function recomputeSeconds(node: Node, saved: ReadonlySet<Node>, rates: Rates): number {
  const visited = new Set<Node>();
  const visit = (current: Node): number => {
    if (visited.has(current)) return 0;
    visited.add(current);
    let total = current.op.cost && !current.op.view ? seconds(current.op.cost(current), rates) : 0;
    for (const input of current.inputs) {
      const producer = input?.node;
      if (producer && producer.phase === "forward" && !saved.has(producer)) total += visit(producer);
    }
    return total;
  };
  return visit(node);
}
