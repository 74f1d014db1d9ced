// The models that are timed: their published shapes, with random weights.
const llama3 = {
  model_type: "llama",
  vocab_size: 128256,
  hidden_size: 4096,
  intermediate_size: 14336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  max_position_embeddings: 131072,
  tie_word_embeddings: false,
};

const qwen2 = {
  model_type: "qwen2",
  vocab_size: 152064,
  hidden_size: 3584,
  intermediate_size: 18944,
  num_hidden_layers: 28,
  num_attention_heads: 28,
  num_key_value_heads: 4,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000,
  max_position_embeddings: 131072,
  tie_word_embeddings: false,
};

const gemma2 = {
  model_type: "gemma2",
  vocab_size: 256000,
  hidden_size: 3584,
  intermediate_size: 14336,
  num_hidden_layers: 42,
  num_attention_heads: 16,
  num_key_value_heads: 8,
  head_dim: 256,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  max_position_embeddings: 131072,
  tie_word_embeddings: true,
  hidden_activation: "gelu_pytorch_tanh",
  query_pre_attn_scalar: 256,
  attn_logit_softcapping: 50,
  final_logit_softcapping: 30,
  sliding_window: 4096,
};

export const MODELS = { "llama3-8b": llama3, "qwen2-7b": qwen2, "gemma2-9b": gemma2 };

const llama3Small = {
  ...llama3,
  hidden_size: 2048,
  intermediate_size: 8192,
  num_hidden_layers: 16,
  head_dim: 64,
  tie_word_embeddings: true,
};

/** Those that DPO and PPO are timed with, the smaller first. */
export const RL_MODELS = { "llama3-1b": llama3Small, "llama3-8b": llama3 };

/** A model's configuration, with fewer layers where asked for. */
export function shapeOf(name, layers) {
  const all = { ...MODELS, ...RL_MODELS };
  const config = all[name];
  if (!config) throw new Error(`--model ${name}: there are ${Object.keys(all).join(", ")}`);
  return layers ? { ...config, num_hidden_layers: layers } : config;
}

/** "8x2048:minimum+offload+trained=0.3" as an object. */
export function parseCase(text) {
  const [shape, rest = "budget"] = text.split(":");
  const [policy, ...extras] = rest.split("+");
  const [batch, length] = shape.split("x").map(Number);
  const number = (name, otherwise) => {
    const found = extras.find((extra) => extra.startsWith(`${name}=`));
    return found ? Number(found.slice(name.length + 1)) : otherwise;
  };
  const trained = number("trained", 1);
  const good = ["budget", "minimum", "recompute", "keep"].includes(policy) && trained >= 0 && trained <= 1;
  if (!(batch > 0 && length > 0 && good)) throw new Error(`--case ${text}: see the top of bench/gpu.mjs`);
  return {
    text,
    batch,
    length,
    policy,
    trained,
    offload: extras.includes("offload"),
    table: extras.includes("table"),
    /** GiB of the card that all of it may take; null: what there is. */
    within: number("within", null),
    steps: number("steps", null),
    warmup: number("warmup", null),
  };
}
