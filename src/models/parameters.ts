import type { Shape } from "../graph/types.ts";
import type { DecoderConfig } from "./config.ts";

/** What a parameter is for; quantisation and targets of adapters go by it. */
export type ParameterKind = "linear" | "bias" | "norm" | "embedding" | "head" | "score";

export interface ParameterSpec {
  /** Hugging Face's name, e.g. model.layers.0.self_attn.q_proj.weight. */
  readonly name: string;
  readonly shape: Shape;
  readonly kind: ParameterKind;
}

/** The linear modules of a decoder layer, in the order they run. */
export const LAYER_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] as const;
export type LayerLinear = (typeof LAYER_LINEARS)[number];

/** Path of a layer's linear module, e.g. model.layers.3.mlp.up_proj. */
export function linearPath(layer: number, linear: LayerLinear): string {
  const block = linear === "gate_proj" || linear === "up_proj" || linear === "down_proj" ? "mlp" : "self_attn";
  return `model.layers.${layer}.${block}.${linear}`;
}

/** [out, in] of a layer's linear module and whether it has a bias. */
export function linearShape(config: DecoderConfig, linear: LayerLinear): { shape: [number, number]; bias: boolean } {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim } = config;
  switch (linear) {
    case "q_proj":
      return { shape: [heads * headDim, hiddenSize], bias: config.qkvBias };
    case "k_proj":
    case "v_proj":
      return { shape: [kvHeads * headDim, hiddenSize], bias: config.qkvBias };
    case "o_proj":
      return { shape: [hiddenSize, heads * headDim], bias: config.outputBias };
    case "gate_proj":
    case "up_proj":
      return { shape: [intermediateSize, hiddenSize], bias: config.mlpBias };
    case "down_proj":
      return { shape: [hiddenSize, intermediateSize], bias: config.mlpBias };
  }
}

/** All parameters of a model in Hugging Face's naming and order. A tied head has none of its own. */
export function parameterSpecs(config: DecoderConfig): ParameterSpec[] {
  const { hiddenSize, vocabSize, headDim } = config;
  const specs: ParameterSpec[] = [
    { name: "model.embed_tokens.weight", shape: [vocabSize, hiddenSize], kind: "embedding" },
  ];
  for (let layer = 0; layer < config.layers; layer++) {
    for (const linear of LAYER_LINEARS) {
      const path = linearPath(layer, linear);
      const { shape, bias } = linearShape(config, linear);
      specs.push({ name: `${path}.weight`, shape, kind: "linear" });
      if (bias) specs.push({ name: `${path}.bias`, shape: [shape[0]], kind: "bias" });
    }
    for (const norm of layerNorms(config)) {
      const perHead = norm.startsWith("self_attn.");
      specs.push({
        name: `model.layers.${layer}.${norm}.weight`,
        shape: [perHead ? headDim : hiddenSize],
        kind: "norm",
      });
    }
  }
  specs.push({ name: "model.norm.weight", shape: [hiddenSize], kind: "norm" });
  if (!config.tiedHead) specs.push({ name: "lm_head.weight", shape: [vocabSize, hiddenSize], kind: "head" });
  if (config.numLabels !== null)
    specs.push({ name: "score.weight", shape: [config.numLabels, hiddenSize], kind: "score" });
  return specs;
}

function layerNorms(config: DecoderConfig): string[] {
  return [
    "input_layernorm",
    "post_attention_layernorm",
    ...(config.postNorms ? ["pre_feedforward_layernorm", "post_feedforward_layernorm"] : []),
    ...(config.qkNorm ? ["self_attn.q_norm", "self_attn.k_norm"] : []),
  ];
}
