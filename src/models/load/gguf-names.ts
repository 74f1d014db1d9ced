import type { DecoderConfig } from "../config.ts";

const GLOBAL: Readonly<Record<string, string>> = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
};

const LAYER: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

/** With norms on both sides of attention and MLP, the one before the MLP has another name. */
const POST_NORM_LAYER: Readonly<Record<string, string>> = {
  ...LAYER,
  post_attention_norm: "post_attention_layernorm",
  ffn_norm: "pre_feedforward_layernorm",
  post_ffw_norm: "post_feedforward_layernorm",
};

/** Hugging Face's name of a GGUF tensor (gguf-py's TENSOR_NAMES); null: not a parameter of these models. */
export function parameterName(ggufName: string, config: Pick<DecoderConfig, "postNorms">): string | null {
  const [, layer, module, kind] = /^(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)$/.exec(ggufName) ?? [];
  if (module === undefined) return null;
  const names = layer === undefined ? GLOBAL : config.postNorms ? POST_NORM_LAYER : LAYER;
  if (!Object.hasOwn(names, module)) return null;
  return layer === undefined ? `${names[module]}.${kind}` : `model.layers.${layer}.${names[module]}.${kind}`;
}
