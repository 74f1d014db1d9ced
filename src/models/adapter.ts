import type { DeviceTensor } from "../backends/backend.ts";

/**
 * The low-rank update of one linear module: y += scale·(dropout(x)·Aᵀ)·Bᵀ with A [r, in] and B [out, r], both f32; with
 * `e`, A's rows are multiplied by it first; with `dora`, the sum with the base weight is normalised (models/lora.ts).
 */
export interface LoraPair {
  readonly a: DeviceTensor;
  readonly b: DeviceTensor;
  readonly scale: number;
  readonly dropout: number;
  /** AdaLoRA's singular values, f32[r]. */
  readonly e?: DeviceTensor | undefined;
  readonly dora?: DoraTensors | undefined;
}

/** What DoRA has beside A and B. `out` is the length of the module's output: hidden size for an embedding. */
export type DoraTensors = DoraDirections | DoraFactors;

/** While it is trained. */
export interface DoraDirections {
  /** f32[out]. */
  readonly magnitude: DeviceTensor;
  /** Squared lengths of the frozen weight's vectors that `magnitude` goes with, f32[out]. */
  readonly squares: DeviceTensor;
  /** f32[r, r]. */
  readonly identity: DeviceTensor;
}

/** When nothing of it changes any more. */
export interface DoraFactors {
  /** f32[out]. */
  readonly magnitude: DeviceTensor;
  /** Magnitudes over the lengths of W + s·B·A, f32[out]. */
  readonly factors: DeviceTensor;
}

/** Rows of a table that are trained: they take the place of its own. */
export interface TokenRows {
  /** f32[n, hidden]. */
  readonly rows: DeviceTensor;
  /** Those they are in the place of, f32[n, hidden]. */
  readonly originals: DeviceTensor;
  /** 1 where a row's token is, else 0, f32[n, vocab]. */
  readonly oneHot: DeviceTensor;
}

/** What a model asks of an adapter while it is traced. peft/ implements it. */
export interface ModelAdapter {
  /** The update of a module, by its path (model.layers.0.mlp.up_proj, lm_head); undefined: none. */
  lora(module: string): LoraPair | undefined;
  /** For embeddings: A is [r, vocab], B [hidden, r]. */
  loraEmbedding(module: string): LoraPair | undefined;
  /** Trained rows of the table of embedding or head; undefined or left out: none. */
  tokenRows?(module: string): TokenRows | undefined;
  /** A trained copy of a base parameter (modules_to_save, trained biases); undefined: the base's own. */
  replacement(parameter: string): DeviceTensor | undefined;
  /** What makes up for changes to the base weights where this adapter is left out; left out or null: there are none. */
  readonly base?: ModelAdapter | null;
  /** Its tensors are trained, but not by way of what is traced with it: no gradient goes into such a trace. */
  readonly constant?: boolean;
}
