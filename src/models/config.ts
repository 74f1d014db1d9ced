import { z } from "zod";
import type { GluActivation } from "../ops/glu.ts";

/** Rotary embedding: base and how its frequencies are stretched beyond the trained length. */
export interface RopeConfig {
  readonly theta: number;
  readonly scaling:
    | { readonly type: "default" }
    | { readonly type: "linear"; readonly factor: number }
    | {
        readonly type: "llama3";
        readonly factor: number;
        readonly lowFreqFactor: number;
        readonly highFreqFactor: number;
        readonly originalMaxPositions: number;
      }
    /** Every frequency divided by its own factor [headDim/2]. */
    | { readonly type: "factors"; readonly factors: readonly number[] };
}

/** Everything the one decoder needs to know to be Llama, Mistral, Qwen or Gemma. */
export interface DecoderConfig {
  /** config.json's model_type. */
  readonly family: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly normEps: number;
  /** Added to norm weights (Gemma stores them minus one). */
  readonly normOffset: number;
  readonly activation: GluActivation;
  readonly rope: RopeConfig;
  readonly maxPositions: number;
  /** The head is the embedding table. */
  readonly tiedHead: boolean;
  /** Biases of q, k, v; of the attention's output; of the MLP. */
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** RMSNorm on every head of q and k (Qwen3). */
  readonly qkNorm: boolean;
  /** Norms after attention and MLP, before the residual (Gemma 2). */
  readonly postNorms: boolean;
  /** Keys a token of each layer sees, itself included; 0: all. */
  readonly windows: readonly number[];
  /** Multiplies q·k. */
  readonly attentionScale: number;
  readonly attentionSoftcap: number;
  readonly logitSoftcap: number;
  /** Multiplies token vectors. */
  readonly embeddingScale: number;
  /** Outputs a token of a linear head "score" (…ForSequenceClassification); null: there is none. */
  readonly numLabels: number | null;
}

/** config.json is missing something, has it wrong, or describes a model this library does not know. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

// Limits far above any model: a config that declares more is broken, and must not make us allocate by it.
const size = z
  .number()
  .int()
  .positive()
  .max(2 ** 24);
const positions = z
  .number()
  .int()
  .positive()
  .max(2 ** 31);
const MAX_LAYERS = 4096;
const rope = z
  .looseObject({
    rope_theta: z.number().positive().nullish(),
    rope_type: z.string().nullish(),
    type: z.string().nullish(),
    factor: z.number().positive().nullish(),
    low_freq_factor: z.number().positive().nullish(),
    high_freq_factor: z.number().positive().nullish(),
    original_max_position_embeddings: positions.nullish(),
    short_factor: z.array(z.number().positive()).nullish(),
    long_factor: z.array(z.number().positive()).nullish(),
    attention_factor: z.number().positive().nullish(),
  })
  .nullish();

/** The fields of config.json that decoders share, as Hugging Face names them (v4 and v5 spellings of RoPE). */
export const hfConfigSchema = z.looseObject({
  model_type: z.string(),
  architectures: z.array(z.string()).nullish(),
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: size.max(MAX_LAYERS),
  num_attention_heads: size,
  num_key_value_heads: size.nullish(),
  head_dim: size.nullish(),
  rms_norm_eps: z.number().positive().default(1e-6),
  rope_theta: z.number().positive().nullish(),
  rope_scaling: rope,
  rope_parameters: rope,
  max_position_embeddings: positions.default(2048),
  tie_word_embeddings: z.boolean().nullish(),
  hidden_act: z.string().nullish(),
  hidden_activation: z.string().nullish(),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
  sliding_window: positions.nullish(),
  use_sliding_window: z.boolean().nullish(),
  max_window_layers: z.number().int().nonnegative().nullish(),
  layer_types: z.array(z.string()).nullish(),
  query_pre_attn_scalar: z.number().positive().nullish(),
  attn_logit_softcapping: z.number().positive().nullish(),
  final_logit_softcapping: z.number().positive().nullish(),
  num_labels: size.nullish(),
  id2label: z.record(z.string(), z.string()).nullish(),
});
export type HfConfig = z.infer<typeof hfConfigSchema>;

const ACTIVATIONS: Readonly<Record<string, GluActivation>> = {
  silu: "silu",
  swish: "silu",
  gelu_pytorch_tanh: "geluTanh",
  gelu_new: "geluTanh",
  gelu: "gelu",
};

/** What every family starts from: Llama's choices, read from config.json. Throws ConfigError naming the field. */
export function baseConfig(config: HfConfig, file: string): DecoderConfig {
  const heads = config.num_attention_heads;
  const kvHeads = config.num_key_value_heads ?? heads;
  if (heads % kvHeads !== 0) {
    throw new ConfigError(`${file}: num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`);
  }
  if (!config.head_dim && config.hidden_size % heads !== 0) {
    throw new ConfigError(
      `${file}: hidden_size ${config.hidden_size} is not a multiple of num_attention_heads ${heads}`,
    );
  }
  const headDim = config.head_dim ?? config.hidden_size / heads;
  if (headDim % 2 !== 0) throw new ConfigError(`${file}: head_dim ${headDim} must be even for rotary embeddings`);
  const act = config.hidden_activation ?? config.hidden_act ?? "silu";
  const activation = ACTIVATIONS[act];
  if (!activation) {
    throw new ConfigError(
      `${file}: hidden_act "${act}" is not supported; supported are ${Object.keys(ACTIVATIONS).join(", ")}`,
    );
  }
  return {
    family: config.model_type,
    vocabSize: config.vocab_size,
    hiddenSize: config.hidden_size,
    intermediateSize: config.intermediate_size,
    layers: config.num_hidden_layers,
    heads,
    kvHeads,
    headDim,
    normEps: config.rms_norm_eps,
    normOffset: 0,
    activation,
    rope: ropeConfig(config, headDim, file),
    maxPositions: config.max_position_embeddings,
    tiedHead: config.tie_word_embeddings ?? false,
    qkvBias: config.attention_bias ?? false,
    outputBias: config.attention_bias ?? false,
    mlpBias: config.mlp_bias ?? false,
    qkNorm: false,
    postNorms: false,
    windows: new Array<number>(config.num_hidden_layers).fill(0),
    attentionScale: headDim ** -0.5,
    attentionSoftcap: 0,
    logitSoftcap: 0,
    embeddingScale: 1,
    numLabels: null,
  };
}

function ropeConfig(config: HfConfig, headDim: number, file: string): RopeConfig {
  const given = config.rope_parameters ?? config.rope_scaling ?? {};
  const theta = given.rope_theta ?? config.rope_theta ?? 10000;
  const type = given.rope_type ?? given.type ?? "default";
  const need = (
    name: "factor" | "low_freq_factor" | "high_freq_factor" | "original_max_position_embeddings",
  ): number => {
    const value = given[name];
    if (value == null) throw new ConfigError(`${file}: rope type "${type}" needs ${name}`);
    return value;
  };
  switch (type) {
    case "default":
      return { theta, scaling: { type } };
    case "linear":
      return { theta, scaling: { type, factor: need("factor") } };
    case "llama3":
      return {
        theta,
        scaling: {
          type,
          factor: need("factor"),
          lowFreqFactor: need("low_freq_factor"),
          highFreqFactor: need("high_freq_factor"),
          originalMaxPositions: need("original_max_position_embeddings"),
        },
      };
    case "longrope":
      return { theta, scaling: { type: "factors", factors: fixedFactors(given, headDim, file) } };
    default:
      throw new ConfigError(`${file}: rope type "${type}" is not supported; supported are default, linear, llama3`);
  }
}

/** LongRoPE with one set of factors for every length is a table of factors; the general kind is not supported. */
function fixedFactors(given: NonNullable<z.infer<typeof rope>>, headDim: number, file: string): readonly number[] {
  const { short_factor: short, long_factor: long, attention_factor: attention } = given;
  if (!long || !short || short.length !== long.length || short.some((f, i) => f !== long[i]) || attention !== 1) {
    throw new ConfigError(
      `${file}: rope type "longrope" is supported only with equal short_factor and long_factor and attention_factor 1`,
    );
  }
  if (long.length !== headDim / 2) {
    throw new ConfigError(`${file}: long_factor has ${long.length} entries; expected ${headDim / 2}, half of head_dim`);
  }
  return long;
}

/** Window sizes of layers from Hugging Face's layer_types, where the file has them. */
export function layerWindows(config: HfConfig, file: string, fallback: (layer: number) => boolean): number[] {
  const window = config.sliding_window ?? 0;
  const types = config.layer_types;
  if (types && types.length !== config.num_hidden_layers) {
    throw new ConfigError(`${file}: layer_types has ${types.length} entries for ${config.num_hidden_layers} layers`);
  }
  return Array.from({ length: config.num_hidden_layers }, (_, layer) => {
    const type = types?.[layer];
    if (type && type !== "sliding_attention" && type !== "full_attention") {
      throw new ConfigError(
        `${file}: layer_types[${layer}] is "${type}"; supported are full_attention, sliding_attention`,
      );
    }
    return (type ? type === "sliding_attention" : fallback(layer)) ? window : 0;
  });
}
