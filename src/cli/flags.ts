import type { Command } from "commander";
import type { z } from "zod";
import { OptionError } from "../util/options.ts";

/** max_steps, maxSteps → max-steps */
const kebab = (name: string): string =>
  name
    .replace(/([a-z0-9])([A-Z])/g, "$1-$2")
    .replaceAll("_", "-")
    .toLowerCase();

interface Flag {
  readonly name: string;
  readonly kind: "boolean" | "number" | "list" | "json" | "string";
}

/** What a schema's field takes on a command line: found out by what the schema accepts. */
function kindOf(schema: z.ZodType): Flag["kind"] {
  const takes = (value: unknown): boolean => schema.safeParse(value).success;
  if (takes(true)) return "boolean";
  if (takes(1) || takes(0.5)) return "number";
  if (takes(["a"])) return "list";
  if (takes({})) return "json";
  return "string";
}

/** Adds one --flag a field of `schema` to a command, but those in `omit`. */
export function addSchemaFlags(command: Command, schema: z.ZodObject, omit: readonly string[] = []): void {
  for (const [name, field] of Object.entries(schema.shape)) {
    if (omit.includes(name)) continue;
    const kind = kindOf(field as z.ZodType);
    const description = (field as z.ZodType).description ?? "";
    if (kind === "boolean") command.option(`--${kebab(name)} [true|false]`, description);
    else command.option(`--${kebab(name)} <${kind === "list" ? "a,b,…" : kind}>`, description);
  }
}

/** The fields of `schema` among a command's parsed options, as the schema wants them. */
export function schemaValues(schema: z.ZodObject, options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(schema.shape)) {
    const key = commanderName(name);
    if (options[key] !== undefined) values[name] = parseFlag(name, kindOf(field as z.ZodType), options[key]);
  }
  return values;
}

/** Commander's key of a flag: the camel case of its kebab case, which differs where capitals or digits meet. */
const commanderName = (name: string): string => kebab(name).replace(/-([a-z0-9])/g, (_, c: string) => c.toUpperCase());

function parseFlag(name: string, kind: Flag["kind"], value: unknown): unknown {
  const flag = `--${kebab(name)}`;
  if (typeof value !== "string") return value;
  switch (kind) {
    case "boolean":
      if (value === "true" || value === "false") return value === "true";
      // A field may take a word beside true and false ("unsloth"); the schema says whether this is one.
      return value;
    case "number": {
      const number = Number(value);
      if (value.trim() === "" || Number.isNaN(number))
        throw new OptionError(`${flag} needs a number, found "${value}"`);
      return number;
    }
    case "list":
      return value.split(",").map((item) => {
        const text = item.trim();
        return /^-?\d+$/.test(text) ? Number(text) : text;
      });
    case "json":
      try {
        return JSON.parse(value);
      } catch {
        throw new OptionError(`${flag} needs JSON, found "${value}"`);
      }
    case "string":
      return value;
  }
}
