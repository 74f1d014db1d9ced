import { baseConfig, layerWindows } from "../config.ts";
import type { Family } from "../family.ts";

/** Qwen3 (dense): every head of q and k is normalised before the rotation, and head_dim is 128 unless said otherwise. */
export const qwen3: Family = {
  modelType: "qwen3",
  architecture: "Qwen3ForCausalLM",
  gguf: { architecture: "qwen3", permutedRope: false, normsPlusOne: false },
  decoder: (config, file) => ({
    ...baseConfig({ ...config, head_dim: config.head_dim ?? 128 }, file),
    qkNorm: true,
    windows: config.use_sliding_window
      ? layerWindows(config, file, (layer) => layer >= (config.max_window_layers ?? 28))
      : new Array<number>(config.num_hidden_layers).fill(0),
  }),
};
