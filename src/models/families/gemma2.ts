import { baseConfig, layerWindows } from "../config.ts";
import type { Family } from "../family.ts";

/**
 * Gemma 2: GeGLU, norms around attention and MLP with weights stored minus one, soft-capped scores and logits, token
 * vectors scaled by √hidden, and a sliding window on every other layer, the first included.
 */
export const gemma2: Family = {
  modelType: "gemma2",
  architecture: "Gemma2ForCausalLM",
  gguf: { architecture: "gemma2", permutedRope: false, normsPlusOne: true },
  decoder: (config, file) => {
    const withDefaults = {
      ...config,
      head_dim: config.head_dim ?? 256,
      hidden_activation: config.hidden_activation ?? "gelu_pytorch_tanh",
      sliding_window: config.sliding_window ?? 4096,
    };
    return {
      ...baseConfig(withDefaults, file),
      normOffset: 1,
      postNorms: true,
      tiedHead: config.tie_word_embeddings ?? true,
      windows: layerWindows(withDefaults, file, (layer) => layer % 2 === 0),
      attentionScale: (config.query_pre_attn_scalar ?? 256) ** -0.5,
      attentionSoftcap: config.attn_logit_softcapping ?? 0,
      logitSoftcap: config.final_logit_softcapping ?? 0,
      embeddingScale: Math.sqrt(config.hidden_size),
    };
  },
};
