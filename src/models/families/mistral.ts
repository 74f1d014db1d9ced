import { baseConfig } from "../config.ts";
import type { Family } from "../family.ts";

/** Mistral: Llama with an optional sliding window on every layer. */
export const mistral: Family = {
  modelType: "mistral",
  architecture: "MistralForCausalLM",
  gguf: null,
  decoder: (config, file) => {
    const base = baseConfig(config, file);
    return { ...base, windows: base.windows.map(() => config.sliding_window ?? 0) };
  },
};
