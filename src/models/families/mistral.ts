import { baseConfig } from "../config.ts";
import type { Family } from "../family.ts";

/** Mistral: Llama with an optional sliding window on every layer. */
export const mistral: Family = {
  modelType: "mistral",
  architecture: "MistralForCausalLM",
  gguf: null,
  decoder: (config, file) => {
    const base = baseConfig(config, file);
    // null says that there is no window; where the field is missing Hugging Face has 4096.
    const window = config.sliding_window === undefined ? 4096 : (config.sliding_window ?? 0);
    return { ...base, windows: base.windows.map(() => window) };
  },
};
