import { FormatError, reason, show } from "../formats/errors.ts";

/** Unlikely enough to be anybody's text. */
const MARK = "\u0000number:";

/** A JSON object as Python's json module writes it: NaN, Infinity and -Infinity are numbers. Throws FormatError. */
export function parsePythonJson(text: string, file: string): Record<string, unknown> {
  // Strings are matched too, so that the words in them stay.
  const marked = text.replace(/"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g, (token) =>
    token.startsWith('"') ? token : JSON.stringify(MARK + token),
  );
  let value: unknown;
  try {
    value = JSON.parse(marked, (_, item: unknown) =>
      typeof item === "string" && item.startsWith(MARK) ? Number(item.slice(MARK.length)) : item,
    );
  } catch (cause) {
    throw new FormatError({
      file,
      field: "contents",
      found: `invalid JSON (${reason(cause)})`,
      expected: "JSON",
      cause,
    });
  }
  if (!isRecord(value))
    throw new FormatError({ file, field: "contents", found: show(value), expected: "a JSON object" });
  return value;
}

/** A field that must be a number. */
export function number(json: Readonly<Record<string, unknown>>, name: string, file: string): number {
  const value = json[name];
  if (typeof value !== "number") throw new FormatError({ file, field: name, found: show(value), expected: "a number" });
  return value;
}

/** A field that must be a whole number from 0. */
export function count(json: Readonly<Record<string, unknown>>, name: string, file: string): number {
  const value = number(json, name, file);
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new FormatError({ file, field: name, found: show(value), expected: "a whole number from 0" });
  }
  return value;
}

/** A field that must be an object. */
export function record(json: Readonly<Record<string, unknown>>, name: string, file: string): Record<string, unknown> {
  const value = json[name];
  if (!isRecord(value)) throw new FormatError({ file, field: name, found: show(value), expected: "an object" });
  return value;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
