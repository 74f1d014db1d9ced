import type { z } from "zod";
import { TrainingArguments } from "../arguments.ts";
import { trainerFields } from "../trainer-fields.ts";
import { type ConfigKind, ownValues, parseValues } from "./config.ts";
import type { PreferenceTrainerOptions } from "./trainer.ts";

interface TrainerSettings<S extends z.ZodObject, Options> {
  /** What was given, its fields in camelCase. */
  readonly options: Options;
  readonly args: TrainingArguments;
  /** The trainer's own settings: those beside the fields count before those of a configuration. */
  readonly values: z.output<S>;
}

/**
 * What a preference trainer was given, checked. Throws OptionError.
 * @param Config what `args` as a plain object are options of
 * @param more fields that only this trainer has
 */
export function trainerSettings<S extends z.ZodObject, Options extends PreferenceTrainerOptions>(
  kind: ConfigKind<S>,
  Config: new (options?: Readonly<Record<string, unknown>>) => TrainingArguments,
  given: Options,
  more: readonly string[] = [],
): TrainerSettings<S, Options> {
  const options = trainerFields(kind.owner, given, { more, settings: true });
  const { model, tokenizer, processingClass, trainDataset, evalDataset, callbacks, ...rest } = options;
  const { args: ownArgs, ...others } = rest as { args?: TrainingArguments | Record<string, unknown> };
  const own = Object.fromEntries(Object.entries(others).filter(([name]) => !more.includes(name)));
  const args = ownArgs instanceof TrainingArguments ? ownArgs : new Config(ownArgs);
  return { options, args, values: parseValues(kind, own, args instanceof Config && ownValues(kind, args)) };
}
