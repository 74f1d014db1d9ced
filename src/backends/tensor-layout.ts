import { type DType, denseBytes, numel, type Shape } from "../graph/types.ts";
import { INT8_BLOCK_SIZE } from "../quant/int8.ts";
import { NESTED_BLOCK_SIZE, NF4_DEFAULT_BLOCK_SIZE } from "../quant/nf4.ts";
import type { DeviceTensor, PartName, TensorOptions } from "./backend.ts";

/** What a tensor is made of, whatever memory it is in. */
export interface TensorLayout extends Pick<DeviceTensor, "quantization" | "parts"> {
  /** Of all parts together. */
  readonly bytes: number;
}

/** The parts of a tensor and their bytes: the data and, of a quantised weight, its scales (see quant/). */
export function tensorLayout(dtype: DType, shape: Shape, options: TensorOptions): TensorLayout {
  const parts = new Map<PartName, number>([["data", denseBytes(dtype, shape)]]);
  let quantization: TensorLayout["quantization"] = null;
  if (dtype === "nf4") {
    const { blockSize = NF4_DEFAULT_BLOCK_SIZE, doubleQuant = false } = options;
    quantization = { blockSize, doubleQuant };
    const blocks = Math.ceil(numel(shape) / blockSize);
    parts.set("absmax", doubleQuant ? blocks : 4 * blocks);
    if (doubleQuant) {
      parts.set("nested", 4 * Math.ceil(blocks / NESTED_BLOCK_SIZE));
      parts.set("map", 4 * 256);
    }
  }
  if (dtype === "int8") {
    quantization = { blockSize: INT8_BLOCK_SIZE, doubleQuant: false };
    parts.set("absmax", 4 * Math.ceil(numel(shape) / INT8_BLOCK_SIZE));
  }
  return { quantization, parts, bytes: [...parts.values()].reduce((sum, bytes) => sum + bytes, 0) };
}
