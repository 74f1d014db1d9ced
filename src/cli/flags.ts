import { type Command, Option } from "commander";
import type { z } from "zod";
import { nearest } from "../util/nearest.ts";
import { BooleanOption } from "./command.ts";
import { UsageError } from "./exit.ts";
import { HELP } from "./help-texts.ts";

/** max_steps, maxSteps → max-steps; loadIn4bit → load-in-4bit. */
export const kebab = (name: string): string =>
  name
    .replace(/([a-z0-9])([A-Z])/g, "$1-$2")
    .replace(/([a-z])(\d+bit)/g, "$1-$2")
    .replaceAll("_", "-")
    .toLowerCase();

/** max-steps, maxSteps → max_steps. */
export const snake = (name: string): string => kebab(name).replaceAll("-", "_");

type FlagKind = "boolean" | "number" | "list" | "json" | "string";

const takes = (schema: z.ZodType, value: unknown): boolean => schema.safeParse(value).success;

/** What a schema's field takes on a command line: found out by what the schema accepts. */
function kindOf(schema: z.ZodType): FlagKind {
  if (takes(schema, true)) return "boolean";
  if (choicesOf(schema).length === 0 && ["a", 0, wordsOf(schema)[0]].some((item) => takes(schema, [item])))
    return "list";
  if (takes(schema, 1) || takes(schema, 0.5)) return "number";
  if (takes(schema, {})) return "json";
  return "string";
}

/** The words a field takes, where it takes a few only. */
export function choicesOf(schema: z.ZodType): string[] {
  const issue = schema.safeParse("\u0000").error?.issues[0];
  return issue?.code === "invalid_value" ? issue.values.map(String) : [];
}

/** The words a field takes, beside which it may take numbers, booleans or lists. */
export function wordsOf(schema: z.ZodType): string[] {
  const words = (issues: readonly z.core.$ZodIssue[]): string[] =>
    issues.flatMap((issue) => {
      if (issue.code === "invalid_union") return issue.errors.flatMap(words);
      return issue.code === "invalid_value" && issue.path.length === 0 ? issue.values.map(String) : [];
    });
  return words(schema.safeParse("\u0000").error?.issues ?? []);
}

/** The flag of a field; its help shows `fallback`, or the schema's default. */
export function schemaFlag(name: string, schema: z.ZodType, fallback?: unknown): Option {
  const kind = kindOf(schema);
  const flag = `--${kebab(name)}`;
  const description = describe(name, schema, fallback ?? schema.safeParse(undefined).data);
  if (kind === "boolean") {
    // A slip in one of a few words is that word's, and no argument of the command.
    const isWord = (word: string): boolean => takes(schema, word) || nearest(word, wordsOf(schema)) !== null;
    return new BooleanOption(flag, description, (word) => !word.startsWith("-") && isWord(word));
  }
  const value = { list: "a,b,…", json: "json", number: "number", string: "text" }[kind];
  return new Option(`${flag} <${value}>`, description);
}

function describe(name: string, schema: z.ZodType, fallback: unknown): string {
  const choices = choicesOf(schema);
  const text = schema.description ?? HELP[name] ?? "";
  const isNothing = fallback === undefined || fallback === null || fallback === false || isEmpty(fallback);
  const shown = typeof fallback === "string" ? fallback : JSON.stringify(fallback);
  return [
    [text, choices.length > 0 ? `one of ${choices.join(", ")}` : ""].filter((part) => part !== "").join(": "),
    isNothing || text.includes("(default") ? "" : `(default: ${shown})`,
  ]
    .filter((part) => part !== "")
    .join(" ");
}

const isEmpty = (value: unknown): boolean =>
  typeof value === "object" && value !== null && Object.keys(value).length === 0;

/** Adds one --flag a field of `schema` to a command, but those in `omit`. */
export function addSchemaFlags(command: Command, schema: z.ZodObject, omit: readonly string[] = []): void {
  for (const [name, field] of Object.entries(schema.shape)) {
    if (!omit.includes(name)) command.addOption(schemaFlag(name, field as z.ZodType));
  }
}

/** The fields of `schema` among a command's parsed options, as the schema wants them. Throws UsageError. */
export function schemaValues(schema: z.ZodObject, options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(schema.shape)) {
    const given = options[optionKey(name)];
    if (given !== undefined) values[name] = flagValue(name, field as z.ZodType, given);
  }
  return values;
}

/** Commander's key of a field's flag: the camel case of its kebab case. */
export const optionKey = (name: string): string =>
  kebab(name).replace(/-([a-z0-9])/g, (_, c: string) => c.toUpperCase());

/** What a flag's text means for a field; whether the field takes it is not checked. Throws UsageError. */
export function flagValue(name: string, schema: z.ZodType, value: unknown): unknown {
  if (typeof value !== "string") return value;
  const flag = `--${kebab(name)}`;
  if (value === "null" && takes(schema, null) && !choicesOf(schema).includes(value)) return null;
  switch (kindOf(schema)) {
    case "boolean":
      if (value === "true" || value === "false") return value === "true";
      // A field may take a word beside true and false ("unsloth"); the schema says whether this is one.
      return value;
    case "number": {
      const number = Number(value);
      if (value.trim() !== "" && !Number.isNaN(number)) return number;
      throw new UsageError(`${flag} needs a number, found "${value}"`);
    }
    case "list":
      return listOf(value, schema);
    case "json":
      try {
        return JSON.parse(value);
      } catch {
        throw new UsageError(`${flag} needs JSON, found "${value}"`);
      }
    case "string":
      return value;
  }
}

/** "a,b" as a list; a shorthand ("all-linear"), a regular expression or one number stays what it is where it may. */
function listOf(value: string, schema: z.ZodType): unknown {
  const isPattern = value === "all-linear" || /[*+?()[\]\\^$|]/.test(value);
  if (isPattern && takes(schema, value)) return value;
  const items = value.split(",").map((item) => {
    const text = item.trim();
    return text !== "" && !Number.isNaN(Number(text)) && takes(schema, [Number(text)]) ? Number(text) : text;
  });
  const [only] = items;
  if (items.length > 1 || only === undefined) return items;
  // One of a few words stays one, and so does a slip in it, of which the word's own message is better.
  const isOne = typeof only === "number" ? takes(schema, only) : wordsOf(schema).length > 0;
  return isOne ? only : items;
}
