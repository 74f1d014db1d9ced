/** LoRA adapters: configuration, files as PEFT writes them, merging. */

export {
  type AdaLoraConfig,
  type AdaLoraConfigOptions,
  adaLoraConfig,
  checkSchedule,
  type RankPattern,
} from "./adalora-config.ts";
export { type AdapterTensor, LoraAdapter, type ParameterCount } from "./adapter.ts";
export {
  type LoadAdapterOptions,
  loadAdapter,
  readAdapter,
  type SaveAdapterOptions,
  saveAdapter,
} from "./adapter-files.ts";
export { attachLora, createLora } from "./attach.ts";
export { FrozenAdapter, hasEffect } from "./frozen-adapter.ts";
export { type GetPeftModelOptions, getPeftModel } from "./get-peft-model.ts";
export { type LoraConfig, type LoraConfigOptions, loraConfig } from "./lora-config.ts";
export { type Merge, type MergeOptions, type MergeReport, mergeLora } from "./merge.ts";
export { type GradientCheckpointing, PeftModel } from "./peft-model.ts";
export { allocateRanks, type BudgetSchedule, planStep } from "./rank-allocation.ts";
