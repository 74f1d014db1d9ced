import { tensorLayout } from "../../backends/tensor-layout.ts";
import { type DType, denseBytes, numel, type Shape } from "../../graph/types.ts";
import { NESTED_BLOCK_SIZE, NF4_BLOCK_SIZES, NF4_DEFAULT_BLOCK_SIZE } from "../../quant/nf4.ts";
import { ConfigError } from "../config.ts";
import type { ParameterKind } from "../parameters.ts";
import { type DTypeName, storageOf } from "./dtypes.ts";
import type { MatchedWeight } from "./match.ts";
import type { DenseDType } from "./source.ts";

export interface QuantizationOptions {
  /** Elements that share a scale: one of NF4_BLOCK_SIZES. Default 64. */
  readonly blockSize?: number;
  /** Store the scales in 8 bits. Default true. */
  readonly doubleQuant?: boolean;
}

/** How a model's parameters are to be kept. */
export interface StorageOptions {
  /** Linear weights in NF4. */
  readonly loadIn4bit?: boolean;
  /** Linear weights in 8 bits (quant/int8.ts). */
  readonly loadIn8bit?: boolean;
  /** Type of all other matrices; null or left out: the file's own, and bfloat16 where that is block-quantised. */
  readonly dtype?: DTypeName | null;
  /** Everything is trained, and kept in float32 for it. */
  readonly fullFinetuning?: boolean;
  readonly quantization?: QuantizationOptions;
  /**
   * Keep the table of input embeddings in host memory, of which a GPU reads the rows that a batch needs over the bus. Not for
   * a model whose head is the same table.
   */
  readonly offloadEmbedding?: boolean;
}

/** A parameter, where its numbers are, and what it becomes in memory. */
export interface StoredParameter extends MatchedWeight {
  readonly dtype: DType;
  /** Of an NF4 or 8-bit parameter. */
  readonly quantization: { readonly blockSize: number; readonly doubleQuant: boolean } | null;
  /** In the host's memory on a backend that has its own. */
  readonly host?: boolean;
  /** Bytes in memory, scales included. */
  readonly bytes: number;
}

/**
 * Decide every parameter's storage: linear weights NF4 with loadIn4bit, 8 bits with loadIn8bit, norms and biases always f32, other matrices in
 * `dtype` or as the file has them. Weights the file has in NF4 stay as they are, and so do the ones beside them that its
 * maker chose not to quantise. Throws ConfigError for options that contradict one another or the file.
 */
export function planStorage(weights: readonly MatchedWeight[], options: StorageOptions): StoredParameter[] {
  const { loadIn4bit = false, loadIn8bit = false, fullFinetuning = false } = options;
  const dtype = options.dtype ? storageOf(options.dtype) : null;
  const quantization = quantizationOf(options.quantization ?? {});
  if (fullFinetuning && loadIn4bit) {
    throw new ConfigError("fullFinetuning cannot train weights in 4 bits: leave loadIn4bit out, or train an adapter");
  }
  if (loadIn8bit && (loadIn4bit || fullFinetuning)) {
    const other = loadIn4bit ? "loadIn4bit" : "fullFinetuning";
    throw new ConfigError(`loadIn8bit and ${other} contradict each other: give one of them`);
  }
  if (fullFinetuning && dtype && dtype !== "f32") {
    throw new ConfigError(
      `fullFinetuning trains float32 weights: dtype must be float32 or left out, not ${options.dtype}`,
    );
  }
  const alreadyQuantized = weights.some(({ weight }) => weight.kind === "nf4");
  if (fullFinetuning && alreadyQuantized) {
    throw new ConfigError("fullFinetuning needs the original checkpoint: this one holds 4-bit weights");
  }
  if (options.offloadEmbedding) checkOffload(weights, fullFinetuning);
  return weights.map((matched) => {
    const { spec, weight } = matched;
    const host = options.offloadEmbedding === true && spec.name === EMBEDDING;
    if (weight.kind === "nf4") {
      const { blockSize, doubleQuant } = weight;
      return nf4(matched, { blockSize, doubleQuant });
    }
    if (spec.kind === "linear" && loadIn4bit && !alreadyQuantized) return nf4(matched, quantization);
    if (spec.kind === "linear" && loadIn8bit && !alreadyQuantized) return int8(matched);
    const own: DenseDType = weight.decoded ? "bf16" : weight.dtype;
    const kept = fullFinetuning || isVector(spec.kind) ? "f32" : (dtype ?? own);
    const bytes = denseBytes(kept, spec.shape);
    return { ...matched, dtype: kept, quantization: null, bytes, ...(host && { host }) };
  });
}

const EMBEDDING = "model.embed_tokens.weight";

function checkOffload(weights: readonly MatchedWeight[], fullFinetuning: boolean): void {
  if (fullFinetuning) {
    throw new ConfigError(
      "offloadEmbedding keeps the embeddings as they are, fullFinetuning trains them: give one of them",
    );
  }
  if (weights.some(({ spec }) => spec.name === "lm_head.weight")) return;
  throw new ConfigError(
    "offloadEmbedding: this model's output head is its embedding table, which every step would have to read whole over " +
      "the bus: leave offloadEmbedding out",
  );
}

/** Norms and biases: a few numbers, in which precision costs nothing. */
function isVector(kind: ParameterKind): boolean {
  return kind === "norm" || kind === "bias";
}

function nf4(matched: MatchedWeight, quantization: { blockSize: number; doubleQuant: boolean }): StoredParameter {
  const bytes = nf4Bytes(matched.spec.shape, quantization.blockSize, quantization.doubleQuant);
  return { ...matched, dtype: "nf4", quantization, bytes };
}

function int8(matched: MatchedWeight): StoredParameter {
  const { quantization, bytes } = tensorLayout("int8", matched.spec.shape, { role: "weight" });
  return { ...matched, dtype: "int8", quantization, bytes };
}

/** Bytes of an NF4 weight: half a byte an element, and the scales (f32, or 8 bits with scales of their own). */
export function nf4Bytes(shape: Shape, blockSize: number, doubleQuant: boolean): number {
  const blocks = Math.ceil(numel(shape) / blockSize);
  return (
    denseBytes("nf4", shape) + (doubleQuant ? blocks + 4 * Math.ceil(blocks / NESTED_BLOCK_SIZE) + 4 * 256 : 4 * blocks)
  );
}

function quantizationOf(options: QuantizationOptions): { blockSize: number; doubleQuant: boolean } {
  const { blockSize = NF4_DEFAULT_BLOCK_SIZE, doubleQuant = true } = options;
  if (!NF4_BLOCK_SIZES.includes(blockSize)) {
    throw new ConfigError(`quantization.blockSize: found ${blockSize}; expected one of ${NF4_BLOCK_SIZES.join(", ")}`);
  }
  return { blockSize, doubleQuant };
}
