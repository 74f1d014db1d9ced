import type { Graph, Node } from "../graph/graph.ts";
import { fuseStep } from "./fused-step.ts";
import { groupMembers, groupProducts } from "./matmul-group.ts";

/**
 * Rewrites a forward-only graph of few tokens, where a step costs as much as it computes, into fewer ones (see fused-step.ts):
 *
 * - `matmul_group`: products of one A (see groupProducts);
 * - `norm_narrow`, `glu_narrow`: an RMS norm or gated unit, and the narrow products (LoRA's A) of what it gives;
 * - `rope_cache`: rotating q and k, writing k and v to the cache.
 *
 * For backends that have kernels for these.
 */
export function fuseDecoding(graph: Graph): void {
  groupProducts(graph);
  joinNarrow(graph);
  joinCacheWrites(graph);
}

/** Products whose second factor has at most a sixteenth of the rows that it has columns. */
function isNarrow({ op, inputs }: Node): boolean {
  const b = inputs[1];
  return op.name === "matmul" && b != null && b.shape.length === 2 && b.shape[0]! * 16 <= b.shape[1]!;
}

function joinNarrow(graph: Graph): void {
  for (const node of graph.nodes.slice()) {
    const name = node.op.name === "rms_norm" ? "norm_narrow" : node.op.name === "glu" ? "glu_narrow" : null;
    const [x, w, residual] = node.inputs;
    // Norms of heads are of several rows in one.
    if (!name || residual || (name === "norm_narrow" && w!.shape[0] !== x!.shape[1])) continue;
    const users = graph.nodes.filter(({ inputs }) => inputs.includes(node.outputs[0]!));
    const narrow = users.filter((user) => productsOf(user).every(isNarrow) && productsOf(user).length > 0);
    const members = [node, ...narrow.flatMap(productsOf)];
    if (narrow.length > 1) continue;
    const step = fuseStep(graph, name, members);
    const kept = graph.nodes.map((other) => (other === node ? step : other)).filter((other) => other !== narrow[0]);
    graph.nodes.splice(0, graph.nodes.length, ...kept);
  }
}

/** The products that a node is or stands for; none for other nodes. */
function productsOf(node: Node): readonly Node[] {
  return node.op.name === "matmul" ? [node] : node.op.name === "matmul_group" ? groupMembers(node) : [];
}

function joinCacheWrites(graph: Graph): void {
  for (const { op, inputs } of graph.nodes.slice()) {
    if (op.name !== "attention_cached") continue;
    const [q, keys, values] = inputs.map((value) => value?.node);
    const k = keys?.op.name === "kv_write" ? keys.inputs[0]?.node : null;
    if (values?.op.name !== "kv_write" || q?.op.name !== "rope" || k?.op.name !== "rope") continue;
    const members = [q, k, keys!, values];
    const same = q.inputs[1] === k.inputs[1] && q.inputs[2] === k.inputs[2] && keys!.inputs[1] === values.inputs[1];
    if (!same || !members.every((member) => graph.nodes.includes(member))) continue;
    const last = members.reduce((a, b) => (graph.nodes.indexOf(b) > graph.nodes.indexOf(a) ? b : a));
    replace(graph, "rope_cache", members, last);
  }
}

/** Put a fused step where `place`, one of its members, is; the other members go. */
function replace(graph: Graph, name: string, members: readonly Node[], place: Node): void {
  const step = fuseStep(graph, name, members);
  const dropped = new Set(members);
  const kept = graph.nodes.map((node) => (node === place ? step : node)).filter((node) => !dropped.has(node));
  graph.nodes.splice(0, graph.nodes.length, ...kept);
}
