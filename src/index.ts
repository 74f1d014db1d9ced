/// <reference lib="esnext.disposable" preserve="true" />
/** Fine-tune open LLMs with LoRA and QLoRA: the public API. */
import { hintAtPythonNames } from "./api/python-names.ts";

export { type DeviceName, type DeviceOptions, isBfloat16Supported, openDevice } from "./api/device.ts";
export { FastLanguageModel, type FromPretrainedOptions, loadTokenizer } from "./api/fast-language-model.ts";
export {
  type CheckpointMode,
  type ModePlan,
  type PlanTrainingOptions,
  planTraining,
  type TrainingPlan,
} from "./api/plan-training.ts";
export type { Backend, BackendMemory } from "./backends/backend.ts";
export { CpuBackend, openCpuBackend } from "./backends/cpu/backend.ts";
export { cudaStatus, openCudaBackend } from "./backends/cuda/index.ts";
export {
  type Columns,
  Dataset,
  type DatasetResolver,
  defaultCacheDir,
  type LoadOptions,
  type PackingReport,
  type PreferenceReport,
  PreparedDataset,
  type PrepareProgress,
  type PrepareSettings,
  planPacks,
  prepareDataset,
  type RecipeOptions,
  type RecipeReport,
  type ResponseParts,
  StreamingDataset,
  standardizeSharegpt,
  trainOnResponsesOnly,
} from "./data/index.ts";
export { promptIds } from "./generate/chat.ts";
export {
  DecodingSession,
  type Generated,
  type GeneratedTokens,
  type GenerateOptions,
  type GenerateTokensOptions,
  generate,
  generateTokens,
} from "./generate/index.ts";
export { drawMemory } from "./graph/draw.ts";
export * from "./hub/index.ts";
export { loadModel } from "./models/load/load.ts";
export { createRandomModel } from "./models/load/random.ts";
export { CausalLM } from "./models/model.ts";
export { saveModel } from "./models/save.ts";
export { addScoreHead, asSequenceClassifier, type ScoreHeadOptions } from "./models/score-head.ts";
export * from "./peft/index.ts";
export {
  CHAT_TEMPLATES,
  type ChatMessage,
  type ChatTemplateName,
  type GetChatTemplateOptions,
  getChatTemplate,
  type MessageMapping,
  Tokenizer,
} from "./tokenizer/index.ts";
export * from "./train/index.ts";

hintAtPythonNames();
