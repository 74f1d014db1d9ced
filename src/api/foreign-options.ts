/** Options of Unsloth's from_pretrained that people copy along and that steer things this library does not have. */
import type { ForeignOptions } from "../train/foreign-options.ts";

export const FOREIGN_LOADING: ForeignOptions = {
  deviceMap: { because: "use device: one GPU or the CPU", only: [null, "auto", "sequential", "balanced"] },
  trustRemoteCode: { because: "no code is loaded with a model" },
  useGradientCheckpointing: { because: "getPeftModel takes it" },
  randomState: { because: "loading draws nothing; getPeftModel and the trainers take a seed" },
  fixTokenizer: { because: "tokenizers are read as they are" },
  useExactModelName: { because: "model names are never replaced" },
  disableLogStats: { because: "it goes with fastInference" },
  gpuMemoryUtilization: { because: "memory is planned, not reserved" },
  maxLoraRank: { because: "generation takes any rank" },
  float32MixedPrecision: { because: "norms, adapters and optimizer states are always float32" },
  attnImplementation: { because: "attention is this library's own" },
  fastInference: { because: "generation is this library's own, without vLLM; leave it out", only: [null, false] },
  float8KvCache: { because: "keys and values are kept in the type of activations", only: [null, false] },
  ropeScaling: { because: "it is read from config.json", only: [null] },
  resizeModelVocab: { because: "the vocabulary is the checkpoint's", only: [null] },
  qatScheme: { because: "there is no quantisation-aware training", only: [null] },
  loadInFp8: { because: "use fp8: true on a GPU", only: [null, false] },
  quantizationConfig: { because: "use loadIn4bit or loadIn8bit", only: [null] },
  torchDtype: { because: 'it is called dtype: "bfloat16", "float16" or "float32"', only: [null, "auto"] },
  model: { because: "it is called modelName", only: [] },
  modelNameOrPath: { because: "it is called modelName", only: [] },
};
