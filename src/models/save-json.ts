import { PythonFloat, pythonJson } from "../util/python-json.ts";

/**
 * Fields of configurations that are floats in transformers, which since version 5 refuses an int in their place: 5.0 must
 * not be written as 5. (Annotations of its Llama, Mistral, Qwen, Gemma, rope, generation and bitsandbytes configurations.)
 */
const FLOAT_FIELDS = new Set([
  "attention_dropout",
  "attention_factor",
  "attn_logit_softcapping",
  "beta_fast",
  "beta_slow",
  "diversity_penalty",
  "factor",
  "final_logit_softcapping",
  "high_freq_factor",
  "initializer_range",
  "length_penalty",
  "llm_int8_threshold",
  "long_factor",
  "low_freq_factor",
  "min_p",
  "mscale",
  "mscale_all_dim",
  "partial_rotary_factor",
  "repetition_penalty",
  "rms_norm_eps",
  "rope_theta",
  "short_factor",
  "temperature",
  "top_p",
  "typical_p",
]);

/** config.json or generation_config.json, laid out byte for byte as transformers does. */
export function encodeConfig(config: Readonly<Record<string, unknown>>): string {
  return `${pythonJson(withFloats(config, false))}\n`;
}

function withFloats(value: unknown, float: boolean): unknown {
  if (typeof value === "number") return float ? new PythonFloat(value) : value;
  if (Array.isArray(value)) return value.map((item) => withFloats(item, float));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withFloats(item, FLOAT_FIELDS.has(key))]));
}
