/** What a `FormatError` reports. `file` is absent when the bytes did not come from a file. */
export interface FormatErrorDetails {
  file?: string | undefined;
  /** The part of the file, in words: `header length`, `tensor "a.weight" dtype`. */
  field: string;
  found: string;
  /** What would have been accepted. */
  expected: string;
  cause?: unknown;
}

/**
 * A file, or bytes said to be of a format, that cannot be used: malformed, truncated, missing or of an unsupported
 * kind; also a read that asks for more than a tensor holds. The only error the readers and writers of this folder throw.
 */
export class FormatError extends Error {
  override readonly name = "FormatError";
  readonly file: string | undefined;
  readonly field: string;
  readonly found: string;
  readonly expected: string;

  constructor({ file, field, found, expected, cause }: FormatErrorDetails) {
    const where = file === undefined ? field : `${file}: ${field}`;
    super(`${where}: found ${found}; expected ${expected}`, cause === undefined ? undefined : { cause });
    this.file = file;
    this.field = field;
    this.found = found;
    this.expected = expected;
  }
}

const SHOWN_CHARACTERS = 80;

/** A value from a hostile file as short, printable text for an error message. */
export function show(value: unknown): string {
  if (typeof value === "string") {
    const text = JSON.stringify(value.slice(0, SHOWN_CHARACTERS));
    return value.length > SHOWN_CHARACTERS ? `${text}… (${value.length} characters)` : text;
  }
  if (Array.isArray(value)) {
    // Elements are shown one level deep only: a header may nest a million brackets.
    const shown = value.slice(0, 8).map((item) => (Array.isArray(item) ? "[…]" : show(item)));
    return `[${shown.join(", ")}${value.length > 8 ? `, … ${value.length} items` : ""}]`;
  }
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "undefined" ? "nothing" : String(value);
}

/** The message of anything thrown. */
export function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
