import type { Value } from "../graph/graph.ts";
import { type DType, type FloatDType, GraphError, isFloat, type Shape } from "../graph/types.ts";

/** Throw a GraphError unless `value` is a [rows, cols] matrix; gives the two. A vector counts as one row. */
export function matrix(op: string, role: string, value: Value): [number, number] {
  const { shape } = value;
  if (shape.length === 2) return [shape[0]!, shape[1]!];
  if (shape.length === 1) return [1, shape[0]!];
  throw new GraphError(`${op}: ${role} must be a matrix, found ${value}`);
}

/** Throw a GraphError unless `value` has exactly this type and shape (-1 matches any extent). */
export function expectSpec(op: string, role: string, value: Value, dtype: DType, shape: Shape): void {
  const fits = value.shape.length === shape.length && shape.every((d, i) => d === -1 || d === value.shape[i]);
  if (value.dtype !== dtype || !fits) {
    const wanted = shape.map((d) => (d === -1 ? "*" : d)).join(",");
    throw new GraphError(`${op}: ${role} must be ${dtype}[${wanted}], found ${value}`);
  }
}

/** Type of an activation; a GraphError when it is not a floating-point array. */
export function floatType(op: string, role: string, value: Value): FloatDType {
  if (!isFloat(value.dtype)) throw new GraphError(`${op}: ${role} must be f32, bf16 or f16, found ${value}`);
  return value.dtype;
}

/** Input `index`, which the op cannot do without. */
export function required(op: string, role: string, inputs: readonly (Value | null)[], index: number): Value {
  const value = inputs[index];
  if (!value) throw new GraphError(`${op}: ${role} is missing`);
  return value;
}

/** Bytes of all the inputs and outputs of a node: the traffic of a memory-bound op. */
export function traffic(node: { inputs: readonly (Value | null)[]; outputs: readonly Value[] }): number {
  let bytes = 0;
  for (const value of node.inputs) bytes += value?.bytes ?? 0;
  for (const value of node.outputs) bytes += value.bytes;
  return bytes;
}
