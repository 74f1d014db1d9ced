import type { LoraPair, ModelAdapter } from "./adapter.ts";
import type { CausalLM } from "./model.ts";

/**
 * What a model is traced with where it is to be without its adapter: in 16 bits the adapter muted, else null (nothing, or what
 * makes up for changed base weights).
 */
export function withoutAdapter({ adapter, backend }: Pick<CausalLM, "adapter" | "backend">): ModelAdapter | null {
  return adapter && (backend.computeDtype ?? "f32") !== "f32" ? mutedAdapter(adapter) : null;
}

/**
 * What stands for "no adapter" where activations are 16 bits: the adapter with its low-rank products multiplied by 0. The
 * library rounds a product otherwise when it has more depth or another shape, so that a model without its adapter would
 * differ from one whose adapter does nothing yet by all the roundings there are: a preference loss would not begin at ln 2.
 * Modules with DoRA, embeddings and trained copies are the base's own: they are computed another way anyhow.
 * It is constant: 0 times a gradient would be computed through every layer, with all activations kept for it.
 */
export function mutedAdapter(adapter: ModelAdapter): ModelAdapter {
  const base = adapter.base ?? null;
  return {
    lora(module): LoraPair | undefined {
      const own = base?.lora(module);
      if (own) return own;
      const pair = adapter.lora(module);
      return pair && !pair.dora && module !== "lm_head" ? { ...pair, scale: 0, dropout: 0 } : undefined;
    },
    loraEmbedding: (module) => base?.loraEmbedding(module),
    tokenRows: (module) => base?.tokenRows?.(module),
    replacement: (parameter) => base?.replacement(parameter),
    constant: true,
  };
}
