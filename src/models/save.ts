import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { DeviceTensor } from "../backends/backend.ts";
import { atomicWriteFile } from "../formats/atomic.ts";
import { type TensorToWrite, writeSafetensorsFolder } from "../formats/safetensors.ts";
import { DTYPE_BYTES, GraphError, numel } from "../graph/types.ts";
import { OptionError } from "../util/options.ts";
import { convertDense } from "./load/convert.ts";
import { type DTypeName, dtypeName, isDense, storageOf } from "./load/dtypes.ts";
import type { DenseDType } from "./load/source.ts";
import { CausalLM } from "./model.ts";
import { parameterSpecs } from "./parameters.ts";
import { encodeConfig } from "./save-json.ts";
import { nf4Tensors, quantizationConfig } from "./save-nf4.ts";

export interface SaveModelOptions {
  /** Bytes of tensors in one file. Default 5 GB, as Hugging Face. */
  readonly maxShardBytes?: number;
  /** Type to save in; the model's own (that of its embedding) when left out. NF4 weights stay NF4; 8-bit ones are decoded. */
  readonly dtype?: DTypeName | null;
  /** Contents of generation_config.json; what was loaded with the model when left out, null: none. */
  readonly generationConfig?: Readonly<Record<string, unknown>> | null;
}

const SAFETENSORS = { f32: "F32", bf16: "BF16", f16: "F16" } as const;
const PIECE = 2 ** 20;

/**
 * Write the base model as a Hugging Face folder that transformers reads: config.json, generation_config.json when there
 * is one, model.safetensors or shards with an index. NF4 weights are written as bitsandbytes does. The folder is made
 * when it is not there; config.json comes last, so that a folder without it is an unfinished one. An attached adapter is
 * not part of it. Throws FormatError when a number does not fit float16, and the file system's errors.
 */
export async function saveModel(model: CausalLM, folder: string, options: SaveModelOptions = {}): Promise<void> {
  if (!(model instanceof CausalLM) || typeof folder !== "string") {
    throw new OptionError(
      "saveModel: expected a model and a folder; of one with an adapter the adapter is saved by savePretrained(folder), " +
        "the whole by saveModel(await model.mergeAndUnload(), folder)",
    );
  }
  const dtype = options.dtype ? storageOf(options.dtype) : modelDType(model);
  await mkdir(folder, { recursive: true });
  await rm(join(folder, "config.json"), { force: true });
  await writeSafetensorsFolder(folder, tensorsOf(model, dtype), {
    maxShardBytes: options.maxShardBytes ?? 5e9,
    metadata: { format: "pt" },
    indexMetadata: { total_parameters: countParameters(model) },
  });
  const generation = options.generationConfig === undefined ? model.generationConfig : options.generationConfig;
  const generationFile = join(folder, "generation_config.json");
  if (generation) await atomicWriteFile(generationFile, encodeConfig(generation));
  else await rm(generationFile, { force: true });
  await atomicWriteFile(join(folder, "config.json"), encodeConfig(configOf(model, dtype)));
}

/** The type of a model's numbers: that of its embedding, which is never quantised. */
export function modelDType(model: CausalLM): DenseDType {
  const { dtype } = model.parameter("model.embed_tokens.weight");
  if (!isDense(dtype)) throw new GraphError(`the embedding is ${dtype}; only f32, bf16 and f16 can be saved`);
  return dtype;
}

/** Numbers in the model, however they are stored. */
export function countParameters(model: CausalLM): number {
  let count = 0;
  for (const { shape } of model.parameters.values()) count += numel(shape);
  return count;
}

function* tensorsOf(model: CausalLM, dtype: DenseDType): Generator<TensorToWrite> {
  for (const { name } of parameterSpecs(model.config)) {
    const tensor = model.parameter(name);
    if (isDense(tensor.dtype)) {
      const data = densePieces(tensor, tensor.dtype, dtype);
      yield { name, dtype: SAFETENSORS[dtype], shape: tensor.shape, data };
    } else if (tensor.dtype === "int8") {
      yield { name, dtype: SAFETENSORS[dtype], shape: tensor.shape, data: decodedPieces(model, tensor, dtype) };
    } else yield* nf4Tensors(tensor, dtypeName(dtype));
  }
}

async function* densePieces(tensor: DeviceTensor, from: DenseDType, to: DenseDType): AsyncGenerator<Uint8Array> {
  const bytes = await tensor.read();
  if (from === to) return yield bytes;
  const step = PIECE * DTYPE_BYTES[from];
  for (let at = 0; at < bytes.byteLength; at += step) {
    yield convertDense(bytes.subarray(at, at + step), from, to, tensor.name);
  }
}

/** An 8-bit weight's numbers: no other library reads its codes. */
async function* decodedPieces(model: CausalLM, tensor: DeviceTensor, to: DenseDType): AsyncGenerator<Uint8Array> {
  const values = await model.backend.dequantize(tensor);
  for (let at = 0; at < values.length; at += PIECE) {
    const piece = values.subarray(at, at + PIECE);
    yield convertDense(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength), "f32", to, tensor.name);
  }
}

function configOf(model: CausalLM, dtype: DenseDType): Record<string, unknown> {
  const { dtype: v5, torch_dtype: v4, quantization_config: quantization, ...config } = model.hfConfig;
  const quantized = quantizationConfig(model, dtypeName(dtype), quantization);
  return {
    ...config,
    // transformers 5 writes "dtype", version 4 "torch_dtype"; both read the older name.
    [v5 !== undefined && v4 === undefined ? "dtype" : "torch_dtype"]: dtypeName(dtype),
    ...(quantized ? { quantization_config: quantized } : {}),
  };
}
