/** Models and data sets of the Hugging Face hub, in the cache that Python's huggingface_hub uses. */
export { HubError, type HubErrorCode } from "./errors.ts";
export type { HubProgress } from "./progress.ts";
export { type ResolveModelOptions, type ResolveOptions, resolveDataset, resolveModel } from "./resolve.ts";
export type { HttpPolicy, HubOptions } from "./settings.ts";
export { type Pushed, type PushOptions, pushToHub } from "./upload.ts";
