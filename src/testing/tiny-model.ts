import type { Backend } from "../backends/backend.ts";
import { parseConfig } from "../models/family.ts";
import { CausalLM } from "../models/model.ts";
import { parameterSpecs } from "../models/parameters.ts";
import type { Trainable } from "../optim/optimizer.ts";
import { randomFloats } from "./kernels.ts";

/** config.json of a model small enough for float64 loops, of any family. */
export function tinyConfig(modelType: string, overrides: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    model_type: modelType,
    vocab_size: 61,
    hidden_size: 24,
    intermediate_size: 40,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 8,
    rms_norm_eps: 1e-5,
    max_position_embeddings: 128,
    tie_word_embeddings: true,
    ...overrides,
  };
}

/** A seeded random model whose activations are of ordinary size; all parameters f32. */
export function tinyModel(backend: Backend, modelType = "llama", overrides: Record<string, unknown> = {}): CausalLM {
  const hfConfig = tinyConfig(modelType, overrides);
  const { decoder } = parseConfig(hfConfig, "tiny config");
  const parameters = new Map(
    parameterSpecs(decoder).map(({ name, shape, kind }, i) => {
      const tensor = backend.createTensor(name, "f32", shape, { role: "weight" });
      const n = shape.reduce((a, b) => a * b, 1);
      const norm = kind === "norm";
      const scale = norm || kind === "bias" ? 0.2 : kind === "embedding" ? 1 : 1.5 / Math.sqrt(shape[1]!);
      const data = randomFloats(n, 1000 + i).map((x) => (norm ? 1 - decoder.normOffset : 0) + scale * x);
      tensor.write(new Uint8Array(data.buffer));
      return [name, tensor] as const;
    }),
  );
  return new CausalLM({ backend, config: decoder, hfConfig, parameters, nameOrPath: "tiny" });
}

/** All parameters as trained tensors: full fine-tuning. */
export function allTrainables(model: CausalLM): Trainable[] {
  return [...model.parameters].map(([name, tensor]) => ({ name, tensor, decay: tensor.shape.length > 1 }));
}
