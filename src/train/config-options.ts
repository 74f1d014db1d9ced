import { z } from "zod";
import { nearest } from "../util/nearest.ts";
import { OptionError, parseOptions } from "../util/options.ts";
import { ALIASES, argumentsSchema, type TrainingArgumentsOptions } from "./arguments.ts";
import type { TakenApart } from "./config-class.ts";
import { FOREIGN_ARGUMENTS, type ForeignOptions, withoutForeign } from "./foreign-options.ts";
import { renamed } from "./option-names.ts";

/** Settings of every trainer about the memory of activations. */
export const activationShape = {
  activationOffloading: z.boolean().default(false).describe("let the planner move activations to host memory"),
  activationMemory: z
    .number()
    .int()
    .positive()
    .nullable()
    .default(null)
    .describe('bytes of activations that "unsloth" checkpointing may keep; most of the free memory when left out'),
  activationHostMemory: z
    .number()
    .int()
    .positive()
    .nullable()
    .default(null)
    .describe("bytes of host memory that activationOffloading may take; four fifths of what is free when left out"),
};

export interface ConfigShape<S extends z.ZodObject> {
  /** The class's name, for messages. */
  readonly owner: string;
  /** What it adds to TrainingArguments. */
  readonly schema: S;
  /** Hugging Face's options that steer nothing here. */
  readonly foreign?: ForeignOptions;
  /** Other names for options of the schema. */
  readonly aliases?: Readonly<Record<string, string>>;
  /** Where TRL's defaults are not TrainingArguments'. */
  readonly defaults?: TrainingArgumentsOptions;
}

/**
 * The options of a trainer's configuration (SFTConfig, DPOConfig …) taken apart. Throws OptionError for a name that is
 * neither the trainer's nor TrainingArguments', with the nearest of both.
 */
export function splitConfig<S extends z.ZodObject>(
  { owner, schema, foreign = {}, aliases = {}, defaults }: ConfigShape<S>,
  options: object,
): TakenApart<z.output<S>> {
  const own: Record<string, unknown> = {};
  const args: Record<string, unknown> = { ...defaults };
  const arguments_ = [argumentsSchema.shape, FOREIGN_ARGUMENTS, ALIASES];
  for (const [name, value] of Object.entries(renamed(owner, options as Record<string, unknown>, aliases))) {
    if (Object.hasOwn(schema.shape, name) || Object.hasOwn(foreign, name)) own[name] = value;
    else if (arguments_.some((names) => Object.hasOwn(names, name))) args[name] = value;
    else {
      const close = nearest(name, [...Object.keys(schema.shape), ...Object.keys(argumentsSchema.shape)]);
      throw new OptionError(`${owner}: unknown option "${name}"${close ? `; did you mean "${close}"?` : ""}`);
    }
  }
  return { own: parseOptions(owner, schema, withoutForeign(owner, own, foreign)), args };
}
