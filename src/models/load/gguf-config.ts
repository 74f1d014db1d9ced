import { FormatError, show } from "../../formats/errors.ts";
import type { GgufFile } from "../../formats/gguf.ts";
import { FAMILIES, type Family } from "../family.ts";
import { GgufMetadata } from "./gguf-metadata.ts";
import { ropeScalingFromFactors } from "./gguf-rope.ts";

/** Gemma 2 27B is the one size whose scores are not scaled by the head's width; GGUF does not say so, its depth does. */
const GEMMA2_27B_LAYERS = 46;
const MAX_ROPE_FACTORS = 2 ** 16;

/** The family that llama.cpp stores under this general.architecture. Throws FormatError listing the known ones. */
export function ggufFamily(metadata: GgufMetadata): Family {
  const architecture = metadata.requiredText("general.architecture");
  const kind = metadata.text("general.type");
  if (kind !== null && kind !== "model") metadata.fail("general.type", show(kind), '"model"');
  const family = FAMILIES.find((f) => f.gguf?.architecture === architecture);
  if (family) return family;
  const known = FAMILIES.flatMap((f) => (f.gguf ? [f.gguf.architecture] : [])).join(", ");
  return metadata.fail("general.architecture", show(architecture), `one of ${known}`);
}

/**
 * config.json for a GGUF file: what Hugging Face's would say, as far as the metadata (llama.cpp's keys) and the tensors
 * tell. Throws FormatError naming the key that is missing or wrong.
 */
export function configFromGguf(file: GgufFile): Record<string, unknown> {
  const metadata = new GgufMetadata(file);
  const family = ggufFamily(metadata);
  const architecture = family.gguf!.architecture;
  const key = (name: string) => `${architecture}.${name}`;
  if (metadata.positive(key("expert_count")) !== null) {
    metadata.fail(key("expert_count"), "a mixture of experts", "a dense model");
  }
  const embedding = file.tensors.get("token_embd.weight");
  if (!embedding) {
    const field = 'tensor "token_embd.weight"';
    throw new FormatError({ file: file.path, field, found: "nothing", expected: "the embedding table" });
  }
  const hidden = metadata.requiredNumber(key("embedding_length"));
  const heads = metadata.requiredNumber(key("attention.head_count"));
  const headDim = metadata.positive(key("attention.key_length")) ?? hidden / heads;
  for (const name of ["attention.value_length", "rope.dimension_count"]) {
    const width = metadata.positive(key(name)) ?? headDim;
    if (width !== headDim) metadata.fail(key(name), String(width), `${headDim}, the width of a head`);
  }
  const window = metadata.positive(key("attention.sliding_window"));
  // llama.cpp has Mistral as llama; only a window tells them apart, and only Mistral's decoder has one.
  const named =
    family.modelType === "llama" && window !== null ? FAMILIES.find((f) => f.modelType === "mistral")! : family;
  return {
    architectures: [named.architecture],
    model_type: named.modelType,
    vocab_size: embedding.shape[0],
    hidden_size: hidden,
    intermediate_size: metadata.requiredNumber(key("feed_forward_length")),
    num_hidden_layers: metadata.requiredNumber(key("block_count")),
    num_attention_heads: heads,
    num_key_value_heads: metadata.positive(key("attention.head_count_kv")) ?? heads,
    head_dim: headDim,
    rms_norm_eps: metadata.requiredNumber(key("attention.layer_norm_rms_epsilon")),
    max_position_embeddings: metadata.requiredNumber(key("context_length")),
    tie_word_embeddings: !file.tensors.has("output.weight"),
    attention_bias: named.modelType !== "qwen2" && file.tensors.has("blk.0.attn_q.bias"),
    mlp_bias: file.tensors.has("blk.0.ffn_gate.bias"),
    ...ropeFields(file, metadata, key),
    ...(named.modelType === "gemma2" ? gemma2Fields(metadata, key, { hidden, heads, headDim, window }) : {}),
    ...(named.modelType === "gemma2" ? {} : { hidden_act: "silu" }),
    ...(named.modelType === "mistral" ? { sliding_window: window } : {}),
    ...tokenFields(metadata),
  };
}

type Key = (name: string) => string;

function ropeFields(file: GgufFile, metadata: GgufMetadata, key: Key): Record<string, unknown> {
  const theta = metadata.number(key("rope.freq_base")) ?? 10000;
  const factors = ropeFactors(file);
  if (factors) return { rope_theta: theta, rope_scaling: ropeScalingFromFactors(factors, theta) };
  const type = metadata.text(key("rope.scaling.type")) ?? "none";
  // Old converters wrote the factor alone.
  const factor = metadata.number(key("rope.scaling.factor")) ?? metadata.number(key("rope.scale_linear"));
  if (type === "linear" || (type === "none" && factor !== null && factor !== 1)) {
    return { rope_theta: theta, rope_scaling: { rope_type: "linear", factor: factor ?? 1 } };
  }
  if (type !== "none") metadata.fail(key("rope.scaling.type"), show(type), '"none" or "linear"');
  return { rope_theta: theta, rope_scaling: null };
}

function ropeFactors(file: GgufFile): number[] | null {
  const name = "rope_freqs.weight";
  const info = file.tensors.get(name);
  if (!info) return null;
  const fail = (found: string, expected: string): never => {
    throw new FormatError({ file: file.path, field: `tensor "${name}"`, found, expected });
  };
  if (info.type !== "F32" || info.shape.length !== 1 || info.shape[0]! > MAX_ROPE_FACTORS) {
    fail(`${info.type} ${show(info.shape)}`, `F32, one factor a rotation`);
  }
  const factors = new Float32Array(info.shape[0]!);
  file.readIntoSync(name, new Uint8Array(factors.buffer));
  const wrong = factors.find((factor) => !(factor > 0 && Number.isFinite(factor)));
  if (wrong !== undefined) fail(`a factor of ${wrong}`, "positive numbers");
  return Array.from(factors);
}

function gemma2Fields(
  metadata: GgufMetadata,
  key: Key,
  { hidden, heads, headDim, window }: { hidden: number; heads: number; headDim: number; window: number | null },
): Record<string, unknown> {
  const scale = metadata.positive(key("attention.scale"));
  const layers = metadata.requiredNumber(key("block_count"));
  return {
    hidden_act: "gelu_pytorch_tanh",
    hidden_activation: "gelu_pytorch_tanh",
    sliding_window: window ?? 4096,
    attn_logit_softcapping: metadata.positive(key("attn_logit_softcapping")),
    final_logit_softcapping: metadata.positive(key("final_logit_softcapping")),
    query_pre_attn_scalar: scale
      ? wholeIfNear(1 / (scale * scale))
      : layers === GEMMA2_27B_LAYERS
        ? hidden / heads
        : headDim,
  };
}

/** transformers wants an integer here, and an f32 of its inverse root is a little off it. */
function wholeIfNear(value: number): number {
  const whole = Math.round(value);
  return Math.abs(value - whole) <= 1e-5 * value ? whole : value;
}

function tokenFields(metadata: GgufMetadata): Record<string, unknown> {
  const fields: Record<string, unknown> = {};
  for (const [field, name] of [
    ["bos_token_id", "bos_token_id"],
    ["eos_token_id", "eos_token_id"],
    ["pad_token_id", "padding_token_id"],
  ] as const) {
    const id = metadata.number(`tokenizer.ggml.${name}`);
    if (id !== null) fields[field] = id;
  }
  return fields;
}
