import type { DeviceTensor } from "../backends/backend.ts";

/** The low-rank update of one linear module: y += scale·(dropout(x)·Aᵀ)·Bᵀ with A [r, in] and B [out, r], both f32. */
export interface LoraPair {
  readonly a: DeviceTensor;
  readonly b: DeviceTensor;
  readonly scale: number;
  readonly dropout: number;
}

/** What a model asks of an adapter while it is traced. peft/ implements it. */
export interface ModelAdapter {
  /** The update of a module, by its path (model.layers.0.mlp.up_proj, lm_head); undefined: none. */
  lora(module: string): LoraPair | undefined;
  /** For embeddings: A is [r, vocab], B [hidden, r]. */
  loraEmbedding(module: string): LoraPair | undefined;
  /** A trained copy of a base parameter (modules_to_save, trained biases); undefined: the base's own. */
  replacement(parameter: string): DeviceTensor | undefined;
}
