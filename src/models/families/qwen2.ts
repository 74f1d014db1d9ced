import { baseConfig, layerWindows } from "../config.ts";
import type { Family } from "../family.ts";

/** Qwen2 and Qwen2.5: biases on q, k and v; a window on the upper layers when use_sliding_window says so. */
export const qwen2: Family = {
  modelType: "qwen2",
  architecture: "Qwen2ForCausalLM",
  gguf: { architecture: "qwen2", permutedRope: false, normsPlusOne: false },
  decoder: (config, file) => ({
    ...baseConfig(config, file),
    qkvBias: true,
    outputBias: false,
    windows: config.use_sliding_window
      ? layerWindows(config, file, (layer) => layer >= (config.max_window_layers ?? 28))
      : new Array<number>(config.num_hidden_layers).fill(0),
  }),
};
