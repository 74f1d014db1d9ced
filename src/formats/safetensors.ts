/**
 * Safetensors files (https://github.com/huggingface/safetensors): strict reading with ranged reads into the caller's
 * memory, and streaming, atomic writing that gives the bytes the Python library gives.
 */
export { SAFETENSORS_DTYPE_BITS, type SafetensorsDtype, safetensorsByteLength } from "./safetensors-dtype.ts";
export { openSafetensors, type SafetensorsFile, type SafetensorsSource } from "./safetensors-file.ts";
export { openSafetensorsFolder } from "./safetensors-folder.ts";
export type { SafetensorsInfo } from "./safetensors-header.ts";
export { writeSafetensorsFolder } from "./safetensors-shards.ts";
export { type TensorBytes, type TensorToWrite, writeSafetensors } from "./safetensors-writer.ts";
export type { TensorSource } from "./tensor-file.ts";
