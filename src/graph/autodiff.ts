import type { Graph, Node, Value } from "./graph.ts";
import type { VjpContext } from "./op.ts";
import { GraphError } from "./types.ts";

/** A value to differentiate with respect to. */
export interface GradientTarget {
  readonly value: Value;
  /**
   * A persistent tensor's value the gradient is added to in place (gradient accumulation over microbatches). Without
   * it the gradient is a new value.
   */
  readonly into?: Value;
}

/**
 * Reverse-mode differentiation: appends to `graph` the nodes that compute d(loss)/d(target) for each target and
 * returns the gradients in target order (null where the loss does not depend on the target).
 *
 * `seed` is d(final)/d(loss), shape of `loss`: usually the constant one.
 */
export function differentiate(
  graph: Graph,
  loss: Value,
  targets: readonly GradientTarget[],
  seed: Value,
): (Value | null)[] {
  const wanted = dependents(graph, targets);
  if (!wanted.has(loss))
    throw new GraphError(`the loss ${loss} depends on none of the ${targets.length} trained tensors`);
  const gradients = new Map<Value, Value>();
  const into = new Map<Value, Value>();
  for (const { value, into: buffer } of targets) if (buffer) into.set(value, buffer);
  gradients.set(loss, seed);

  const forward = graph.nodes.slice();
  graph.inPhase("backward", () => {
    for (let i = forward.length - 1; i >= 0; i--) {
      const node = forward[i]!;
      if (node.phase !== "forward") continue;
      if (!node.outputs.some((value) => gradients.has(value))) continue;
      if (!node.inputs.some((value) => value && wanted.has(value))) continue;
      if (!node.op.vjp) throw new GraphError(`${node.op.name} (in ${node.scope || "the model"}) has no derivative`);
      graph.scope(node.scope ? `${node.scope}.grad` : "grad", () =>
        node.op.vjp!(contextFor(node, gradients, wanted, into)),
      );
      // A gradient that has been passed on is dead unless somebody asked for it.
      for (const value of node.outputs) if (!targets.some((t) => t.value === value)) gradients.delete(value);
    }
  });
  return targets.map(({ value }) => gradients.get(value) ?? null);
}

function contextFor(node: Node, gradients: Map<Value, Value>, wanted: Set<Value>, into: Map<Value, Value>): VjpContext {
  const accumulator = (index: number): Value | null => {
    const value = node.inputs[index]!;
    return gradients.get(value) ?? into.get(value) ?? null;
  };
  return {
    node,
    attrs: node.attrs,
    grad: (index) => gradients.get(node.outputs[index]!) ?? null,
    needs: (index) => {
      const value = node.inputs[index];
      return value !== null && value !== undefined && wanted.has(value);
    },
    accumulator,
    give(index, emit) {
      const value = node.inputs[index];
      if (!value || !wanted.has(value)) return;
      const gradient = emit(accumulator(index));
      if (gradient.shape.join() !== value.shape.join()) {
        throw new GraphError(`${node.op.name}: gradient ${gradient} of input ${index} ${value} has another shape`);
      }
      if (gradient.dtype !== value.dtype) {
        throw new GraphError(`${node.op.name}: gradient ${gradient} of input ${index} ${value} has another type`);
      }
      gradients.set(value, gradient);
    },
    supersede(output, better) {
      for (const [name, value] of output.graph.outputs) {
        if (value === output) output.graph.outputs.set(name, better);
      }
    },
  };
}

/** Values through which the loss can depend on a target. */
function dependents(graph: Graph, targets: readonly GradientTarget[]): Set<Value> {
  const reached = new Set<Value>(targets.map((t) => t.value));
  for (const node of graph.nodes) {
    if (node.op.constant) continue;
    if (node.inputs.some((value) => value && reached.has(value))) for (const out of node.outputs) reached.add(out);
  }
  return reached;
}
