import type { z } from "zod";
import { nearest } from "../../util/nearest.ts";
import { OptionError } from "../../util/options.ts";
import { argumentsSchema } from "../arguments.ts";
import { FOREIGN_ARGUMENTS, type ForeignOptions, withoutForeign } from "../foreign-options.ts";
import { renamed } from "../option-names.ts";

/** Older names of TrainingArguments' options, which it knows itself. */
const OLD_ARGUMENTS = ["evaluationStrategy", "activationCheckpointing", "perGpuTrainBatchSize", "perGpuEvalBatchSize"];

/**
 * Options of a configuration, told apart: the trainer's own, and those of TrainingArguments. Throws OptionError for a name
 * of neither, with the nearest of both, and for foreign options that ask for what cannot be had.
 */
export function splitOptions(
  owner: string,
  schema: z.ZodObject,
  foreign: ForeignOptions,
  options: object,
): { own: Record<string, unknown>; args: Record<string, unknown> } {
  const own: Record<string, unknown> = {};
  const args: Record<string, unknown> = {};
  const shared = [...Object.keys(argumentsSchema.shape), ...Object.keys(FOREIGN_ARGUMENTS), ...OLD_ARGUMENTS];
  for (const [name, value] of Object.entries(renamed(owner, options as Record<string, unknown>, {}))) {
    if (Object.hasOwn(schema.shape, name) || Object.hasOwn(foreign, name)) own[name] = value;
    else if (shared.includes(name)) args[name] = value;
    else {
      const close = nearest(name, [...Object.keys(schema.shape), ...Object.keys(argumentsSchema.shape)]);
      throw new OptionError(`${owner}: unknown option "${name}"${close ? `; did you mean "${close}"?` : ""}`);
    }
  }
  return { own: withoutForeign(owner, own, foreign), args };
}
