import type { z } from "zod";
import { nearest } from "./nearest.ts";

/** An option is unknown, of the wrong type or out of range. */
export class OptionError extends Error {
  override readonly name = "OptionError";
}

/** snake_case to camelCase; names that have no underscore stay as they are. */
export function camelCase(name: string): string {
  return name.replace(/_+([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

/**
 * Options under the names of `known`, which may be given in snake_case; undefined counts as left out. Throws OptionError
 * naming `owner` where `options` is not an object, or a name is unknown or given twice.
 */
export function knownOptions(owner: string, known: readonly string[], options: unknown): Record<string, unknown> {
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw new OptionError(`${owner}: expected options, { ${known[0]}: … }, found ${JSON.stringify(options)}`);
  }
  const given: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const name = known.includes(key) ? key : camelCase(key);
    if (!known.includes(name)) {
      const close = nearest(name, known);
      const few = known.length <= 4 ? `; there are ${known.join(", ")}` : "";
      throw new OptionError(`${owner}: unknown option "${key}"${close ? `; did you mean "${close}"?` : few}`);
    }
    if (name in given) throw new OptionError(`${owner}: "${key}" is given twice, in two spellings`);
    given[name] = value;
  }
  return given;
}

/**
 * Options checked against a schema. Keys may be camelCase or Hugging Face's snake_case; undefined counts as left out.
 * Throws OptionError naming `owner`, the option, what was found and what would work.
 */
export function parseOptions<S extends z.ZodObject>(owner: string, schema: S, options: object): z.output<S> {
  const given = knownOptions(owner, Object.keys(schema.shape), options);
  const parsed = schema.safeParse(given);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  const path = issue.path.map(String);
  const found = path.reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], given);
  if (found === undefined && path.length === 1) throw new OptionError(`${owner}: ${path[0]} is missing`);
  throw new OptionError(`${owner}: ${path.join(".")}: ${issue.message}, found ${JSON.stringify(found)}`);
}
