import type { Backend, DeviceTensor } from "../backends/backend.ts";
import { DTYPE_BYTES, numel } from "../graph/types.ts";
import { widen } from "../models/load/convert.ts";

/** Numbers handled at a time: a few MiB. */
export const PIECE = 2 ** 20;

/** Numbers `[at, at + count)` of a weight, as f32. May be a view: it is the caller's to change. */
export type ReadNumbers = (at: number, count: number) => Float32Array;

/** A weight's numbers, whatever it is stored as: 16-bit ones widened when asked for, 4-bit ones decoded all at once. */
export async function openWeight(backend: Backend, tensor: DeviceTensor): Promise<ReadNumbers> {
  const { dtype } = tensor;
  if (dtype === "f32" || dtype === "bf16" || dtype === "f16") {
    const size = DTYPE_BYTES[dtype];
    const bytes = await tensor.read();
    return (at, count) => widen(bytes.subarray(at * size, (at + count) * size), dtype);
  }
  const values = await backend.dequantize(tensor);
  return (at, count) => values.subarray(at, at + count);
}

/** All of a weight's numbers, [numel]. */
export async function readWeight(backend: Backend, tensor: DeviceTensor): Promise<Float32Array> {
  return (await openWeight(backend, tensor))(0, numel(tensor.shape));
}

/** Fills an f32 tensor with another's numbers. */
export async function copyWeight(backend: Backend, from: DeviceTensor, to: DeviceTensor): Promise<void> {
  const numbers = await openWeight(backend, from);
  const count = numel(to.shape);
  for (let at = 0; at < count; at += PIECE) writeFloats(to, numbers(at, Math.min(PIECE, count - at)), at);
}

/** Writes numbers into an f32 tensor from its element `at` on. */
export function writeFloats(tensor: DeviceTensor, values: Float32Array, at = 0): void {
  tensor.write(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), { offset: 4 * at });
}
