import type { Backend, DeviceTensor } from "../backends/backend.ts";
import { widen } from "../models/load/convert.ts";

/** A weight's numbers, [numel], whatever it is stored as; 4-bit ones decoded. */
export async function readWeight(backend: Backend, tensor: DeviceTensor): Promise<Float32Array> {
  const { dtype } = tensor;
  if (dtype === "f32" || dtype === "bf16" || dtype === "f16") return widen(await tensor.read(), dtype);
  return backend.dequantize(tensor);
}

export function writeFloats(tensor: DeviceTensor, values: Float32Array): void {
  tensor.write(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
}
