import { OptionError } from "../../util/options.ts";
import type { StorageOptions } from "./storage.ts";

/** The ways to load a model's linear layers, as Unsloth has them: at most one is asked for. */
export interface WeightChoice {
  readonly loadIn4bit?: boolean | undefined;
  readonly loadIn8bit?: boolean | undefined;
  readonly loadIn16bit?: boolean | undefined;
  readonly fullFinetuning?: boolean | undefined;
}

/** The one way asked for; 4 bits when none is. Throws OptionError, in the name of `owner`, for two at once. */
export function weightOptions(
  owner: string,
  { loadIn4bit, loadIn8bit = false, loadIn16bit = false, fullFinetuning = false }: WeightChoice,
): Required<Pick<StorageOptions, "loadIn4bit" | "loadIn8bit" | "fullFinetuning">> {
  const asked = Object.entries({ loadIn4bit, loadIn8bit, loadIn16bit, fullFinetuning })
    .filter(([, value]) => value)
    .map(([name]) => name);
  if (asked.length > 1) {
    const reason = fullFinetuning ? "; fullFinetuning trains float32 weights" : "";
    throw new OptionError(`${owner}: ${asked.join(" and ")} contradict each other: give one of them${reason}`);
  }
  return { loadIn4bit: loadIn4bit ?? asked.length === 0, loadIn8bit, fullFinetuning };
}
