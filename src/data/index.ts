export { type Batch, bucketLength, collate, IGNORE_INDEX, type TokenizedRow } from "./collate.ts";
export type { BatchedOptions, Columns } from "./columns.ts";
export { Dataset, type SplitOptions } from "./dataset.ts";
export type { DataFormat, DatasetResolver, LoadOptions } from "./files.ts";
export { tokenizerFingerprint } from "./fingerprint.ts";
export { type JsonlOptions, type LocatedRow, type Row, readJsonArray, readJsonl } from "./jsonl.ts";
export type { LocatedRows, LocatedStream, RowOrigin } from "./origin.ts";
export {
  PACKING_STRATEGIES,
  type PackingOptions,
  type PackingReport,
  type PackingStrategy,
  PackPlan,
  pack,
  planPacks,
} from "./packing.ts";
export {
  type LabelledAnswer,
  type PreferenceOptions,
  type PreferencePair,
  type PromptRow,
  type TruncationMode,
  tokenizePreferences,
  tokenizePrompts,
  tokenizeUnpaired,
} from "./preference.ts";
export type { DropReason, PreferenceReport } from "./preference-report.ts";
export {
  type PreferenceExample,
  type PromptExample,
  readPreference,
  readPrompt,
  readUnpaired,
  type UnpairedExample,
} from "./preference-rows.ts";
export type { AnswerTokens } from "./preference-tokens.ts";
export {
  defaultCacheDir,
  PreparedDataset,
  type PrepareProgress,
  type PrepareSettings,
  prepareDataset,
} from "./prepare.ts";
export {
  type Preview,
  type PreviewOptions,
  type PreviewSample,
  type PreviewToken,
  paintSample,
  previewRows,
} from "./preview.ts";
export { type Example, readExample } from "./recipe-kinds.ts";
export { countTargets, type RecipeReport } from "./recipe-report.ts";
export { type RecipeOptions, type TrainOn, tokenizeRow, tokenizeRows } from "./recipes.ts";
export type { ResponseParts } from "./responses.ts";
export { memoryStore, type PackedRows, packedRows, type RowStore } from "./row-store.ts";
export { Sampler, type SamplerOptions, type SamplerState } from "./sampler.ts";
export { type StandardizeOptions, standardizeSharegpt } from "./standardize.ts";
export { type ShuffleOptions, StreamingDataset } from "./streaming.ts";
export { type ResponsesTrainable, trainOnResponsesOnly } from "./train-on-responses.ts";
