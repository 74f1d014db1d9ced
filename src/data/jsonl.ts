import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { FormatError, reason, show } from "../formats/errors.ts";

/** One example of a data set: a JSON object. */
export type Row = Record<string, unknown>;

/** A row, and where it came from, for error messages: "train.jsonl:12", or "train.json[11]". */
export interface LocatedRow {
  row: Row;
  where: string;
}

export interface JsonlOptions {
  /** A longer line is an error. Bytes; default 64 MiB. */
  maxLineBytes?: number;
}

const NEWLINE = 0x0a;
const RETURN = 0x0d;
const MAX_LINE_BYTES = 64 * 2 ** 20;
/** Node cannot make a longer string. */
const MAX_JSON_BYTES = 512 * 2 ** 20;

/**
 * Reads a JSON Lines file (UTF-8, one object a line) a chunk at a time. A byte-order mark, CRLF line ends and blank lines
 * are fine. Throws `FormatError` naming file and line.
 */
export async function* readJsonl(path: string, options: JsonlOptions = {}): AsyncGenerator<LocatedRow> {
  const maxLineBytes = options.maxLineBytes ?? MAX_LINE_BYTES;
  // Parts of the line at hand that came in earlier chunks.
  let parts: Uint8Array[] = [];
  let held = 0;
  let line = 1;
  const finish = (rest: Uint8Array): LocatedRow | null => {
    const where = `${path}:${line}`;
    if (held + rest.length > maxLineBytes) throw tooLong(where, held + rest.length, maxLineBytes);
    const row = parseLine(parts.length === 0 ? rest : Buffer.concat([...parts, rest]), where, line === 1);
    parts = [];
    held = 0;
    line++;
    return row === null ? null : { row, where };
  };
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 }) as AsyncIterable<Buffer>) {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      const located = finish(chunk.subarray(start, end));
      if (located !== null) yield located;
      start = end + 1;
    }
    if (start < chunk.length) {
      parts.push(chunk.subarray(start));
      held += chunk.length - start;
      if (held > maxLineBytes) throw tooLong(`${path}:${line}`, held, maxLineBytes);
    }
  }
  if (held > 0) {
    const located = finish(new Uint8Array(0));
    if (located !== null) yield located;
  }
}

/** Reads a file that is one JSON array of objects. Throws `FormatError` naming file, and line or index. */
export async function readJsonArray(path: string): Promise<LocatedRow[]> {
  const bytes = await readFile(path);
  if (bytes.length > MAX_JSON_BYTES) {
    const found = `${bytes.length} bytes`;
    const expected = `at most ${MAX_JSON_BYTES} in one array; JSON Lines (one object a line) can be any size`;
    throw new FormatError({ file: path, field: "contents", found, expected });
  }
  const text = decodeUtf8(bytes, path);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const at = /at position (\d+)/.exec(reason(cause));
    const line = at === null ? "" : `:${text.slice(0, Number(at[1])).split("\n").length}`;
    const isJsonl = /^\s*\{[^\n]*\}\s*\n\s*\{/.test(text.slice(0, 2 ** 20));
    throw new FormatError({
      file: `${path}${line}`,
      field: "contents",
      found: reason(cause),
      expected: `JSON${isJsonl ? "; this looks like JSON Lines: read it as such, or name it .jsonl" : ""}`,
      cause,
    });
  }
  if (!Array.isArray(value)) {
    const keys = typeof value === "object" && value !== null ? ` with ${show(Object.keys(value))}` : "";
    const expected = "an array of objects, or JSON Lines (one object a line)";
    throw new FormatError({ file: path, field: "contents", found: `${show(value)}${keys}`, expected });
  }
  return value.map((item, i) => {
    const where = `${path}[${i}]`;
    return { row: checkRow(item, where), where };
  });
}

function parseLine(bytes: Uint8Array, where: string, isFirst: boolean): Row | null {
  const end = bytes.at(-1) === RETURN ? bytes.length - 1 : bytes.length;
  const text = decodeUtf8(bytes.subarray(0, end), where, isFirst);
  if (text.trim() === "") return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const expected =
      /^\s*\[/.test(text) && isFirst ? "one JSON object a line; this looks like a JSON array" : "a JSON object";
    throw new FormatError({ file: where, field: "line", found: `${show(text)} (${reason(cause)})`, expected, cause });
  }
  return checkRow(value, where);
}

function checkRow(value: unknown, where: string): Row {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Row;
  throw new FormatError({
    file: where,
    field: "row",
    found: show(value),
    expected: 'an object, such as {"text": "…"}',
  });
}

function decodeUtf8(bytes: Uint8Array, where: string, stripMark = true): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: !stripMark }).decode(bytes);
  } catch (cause) {
    throw new FormatError({ file: where, field: "text", found: "bytes that are not UTF-8", expected: "UTF-8", cause });
  }
}

function tooLong(where: string, found: number, limit: number): FormatError {
  const expected = `at most ${limit} (maxLineBytes); is the file one object a line?`;
  return new FormatError({ file: where, field: "line", found: `${found} bytes or more`, expected });
}
