import { baseConfig } from "../config.ts";
import type { Family } from "../family.ts";

/** Llama 2, 3 and 3.x, SmolLM and everything else that calls itself "llama". */
export const llama: Family = {
  modelType: "llama",
  architecture: "LlamaForCausalLM",
  // llama.cpp stores the rows of q and k in the order of its interleaved rotation.
  gguf: { architecture: "llama", permutedRope: true, normsPlusOne: false },
  decoder: (config, file) => baseConfig(config, file),
};
