import type { Dataset } from "../../data/index.ts";
import type { CausalLM } from "../../models/model.ts";
import type { PeftModel } from "../../peft/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { TrainingArguments } from "../../train/arguments.ts";
import type { TrainerCallback } from "../../train/callbacks.ts";
import type { Trainer } from "../../train/trainer.ts";
import { OptionError } from "../../util/options.ts";
import type { TrainingMethod } from "../settings/train-settings.ts";
import type { RolloutPlan } from "./rollout-plan.ts";

/** What a command gives the trainer it makes. */
export interface MethodParts {
  readonly model: PeftModel | CausalLM;
  readonly tokenizer: Tokenizer;
  readonly trainDataset: Dataset;
  readonly evalDataset: Dataset | undefined;
  readonly callbacks: readonly TrainerCallback[];
  /** The method's settings and the training arguments, as the trainer's configuration takes them. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Settings of the schema that are not the trainer's but the command's. */
  readonly own: Readonly<Record<string, unknown>>;
}

/** A way of training with a command of its own. */
export interface CliMethod extends TrainingMethod {
  /** A line for the list of commands. */
  readonly description: string;
  /** Rows it takes, and an example's settings, for --help. */
  readonly rows: string;
  readonly example: readonly string[];
  /** Settings of the schema that are the command's own. */
  readonly ownSettings?: readonly string[];
  /** What the model needs before an adapter is put on it. */
  readonly prepare?: (lm: CausalLM) => void;
  readonly adapterDefaults?: Readonly<Record<string, unknown>>;
  /** Metrics of an evaluation to print before and after. */
  readonly evalMetrics: readonly string[];
  /** What tells the best run of a sweep, with rows held out and without; losses when left out. */
  readonly sweepMetrics?: readonly [held: string, otherwise: string];
  /** A logged number whose mean over the training goes to the results, as train_<name>. */
  readonly trainMetric?: string;
  trainer(parts: MethodParts): Trainer | Promise<Trainer>;
  /** Whether an adapter that was trained before is copied, to be the reference. */
  readonly copiesAdapter?: (args: TrainingArguments) => boolean;
  /** Of a method that trains on what its model generates: what that takes. */
  rollouts?(parts: RolloutParts): RolloutPlan;
}

/** A trainer and what it was made of. */
export interface RolloutParts extends Pick<MethodParts, "model" | "tokenizer" | "trainDataset" | "evalDataset"> {
  readonly trainer: Trainer;
}

/** Training arguments that every method's command begins with. */
export const METHOD_DEFAULTS = {
  perDeviceTrainBatchSize: 2,
  gradientAccumulationSteps: 4,
  loggingSteps: 1,
  seed: 3407,
};

/** Whether a configuration class takes an option, or calls it unknown; errors that say why it cannot be had pass through. */
export function takenBy(
  Config: new (options: Readonly<Record<string, unknown>>) => unknown,
): (option: Readonly<Record<string, unknown>>) => boolean {
  return (option) => {
    try {
      new Config(option);
      return true;
    } catch (error) {
      if (error instanceof OptionError && error.message.includes("unknown option")) return false;
      throw error;
    }
  };
}
