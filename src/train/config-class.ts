import { TrainingArguments, type TrainingArgumentsOptions } from "./arguments.ts";

/** A configuration as TRL has one a trainer: TrainingArguments with the trainer's own settings as further properties. */
export type ConfigClass<Options extends object, Values extends object> = new (
  options?: (Options & TrainingArgumentsOptions) | Readonly<Record<string, unknown>>,
) => TrainingArguments & Readonly<Values>;

/** Options taken apart: a trainer's own, checked, and those for TrainingArguments. */
export interface TakenApart<Own extends object> {
  readonly own: Own;
  readonly args: Readonly<Record<string, unknown>>;
}

/**
 * The base of such a class: `class DPOConfig extends configClass<DPOOptions, DPOValues>(…) {}`.
 * @param takeApart throws OptionError for options that are neither's
 * @param complete the properties, where they are not just the trainer's own settings; may throw OptionError
 */
export function configClass<Options extends object, Own extends object, Values extends object = Own>(
  takeApart: (options: object) => TakenApart<Own>,
  complete?: (own: Own, args: TrainingArguments) => Values,
): ConfigClass<Options, Values> {
  const Config = class extends TrainingArguments {
    constructor(options: object = {}) {
      const { own, args } = takeApart(options);
      super(args);
      Object.assign(this, complete ? complete(own, this) : own);
    }
  };
  return Config as unknown as ConfigClass<Options, Values>;
}
