import type { DecoderConfig } from "../models/config.ts";
import { type ParameterSpec, parameterSpecs } from "../models/parameters.ts";

/** The names of the two modules that a tied head makes one table of. */
export const EMBEDDING = "model.embed_tokens";
export const HEAD = "lm_head";

/** A module of a model, as PEFT sees it. */
export interface ModelModule {
  /** e.g. model.layers.0.self_attn.q_proj. */
  readonly path: string;
  /** Containers have only modules below them. */
  readonly kind: "linear" | "head" | "embedding" | "norm" | "score" | "container";
  /** [out, in] of a linear module's weight, [vocab, hidden] of an embedding; empty for others. */
  readonly shape: readonly number[];
  /** Every parameter in it and below it, by Hugging Face's name. A tied head's is listed, though the model has none. */
  readonly parameters: readonly ParameterSpec[];
}

/** All modules of a decoder in order, containers before what they hold. */
export function modelModules(config: DecoderConfig): ModelModule[] {
  const specs = parameterSpecs(config);
  if (config.tiedHead) {
    specs.push({ name: `${HEAD}.weight`, shape: [config.vocabSize, config.hiddenSize], kind: "head" });
  }
  const within = new Map<string, ParameterSpec[]>();
  for (const spec of specs) {
    const parts = spec.name.split(".").slice(0, -1);
    for (let depth = 1; depth <= parts.length; depth++) {
      const path = parts.slice(0, depth).join(".");
      const parameters = within.get(path);
      if (parameters) parameters.push(spec);
      else within.set(path, [spec]);
    }
  }
  return [...within].map(([path, parameters]) => {
    const weight = parameters.find((spec) => spec.name === `${path}.weight`);
    if (!weight || weight.kind === "bias") return { path, kind: "container", shape: [], parameters };
    return { path, kind: weight.kind, shape: weight.kind === "norm" ? [] : weight.shape, parameters };
  });
}

/** Last path parts of the modules an update can be put on, for error messages. */
export function targetNames(modules: readonly ModelModule[]): string[] {
  const names = modules.filter(canBeTarget).map(({ path }) => path.slice(path.lastIndexOf(".") + 1));
  return [...new Set(names)];
}

/** Whether a low-rank update can be put on it. */
export function canBeTarget({ kind }: ModelModule): boolean {
  return kind === "linear" || kind === "head" || kind === "embedding";
}
