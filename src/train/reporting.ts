import type { BackendMemory } from "../backends/backend.ts";
import type { TrainingArguments } from "./arguments.ts";
import type { TrainerCallback } from "./callbacks.ts";
import { PrinterCallback, ProgressCallback } from "./progress.ts";
import { TensorBoardCallback } from "./tensorboard-callback.ts";
import { WandbCallback } from "./wandb-callback.ts";

/** The callbacks that reportTo names. */
export function reporters({ reportTo }: TrainingArguments): TrainerCallback[] {
  return reportTo.map((name) => (name === "tensorboard" ? new TensorBoardCallback() : new WandbCallback()));
}

/** What prints progress and logs: a bar and rows, rows alone, or nothing. */
export function printers({ logLevel, disableTqdm }: TrainingArguments, memory: () => BackendMemory): TrainerCallback[] {
  if (logLevel === "error" || logLevel === "critical") return [];
  return [disableTqdm ? new PrinterCallback() : new ProgressCallback({ memory })];
}
