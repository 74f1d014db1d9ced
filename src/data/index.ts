export { type Batch, bucketLength, collate, IGNORE_INDEX, type TokenizedRow } from "./collate.ts";
export { Dataset, type SplitOptions } from "./dataset.ts";
export { type JsonlOptions, type LocatedRow, type Row, readJsonArray, readJsonl } from "./jsonl.ts";
export {
  PACKING_STRATEGIES,
  type PackingOptions,
  type PackingReport,
  type PackingStrategy,
  pack,
} from "./packing.ts";
export { type Example, readExample } from "./recipe-kinds.ts";
export {
  countTargets,
  type RecipeOptions,
  type RecipeReport,
  type TrainOn,
  tokenizeRow,
  tokenizeRows,
} from "./recipes.ts";
export { Sampler, type SamplerOptions, type SamplerState } from "./sampler.ts";
