import { isUtf8 } from "node:buffer";
import { readFile } from "node:fs/promises";
import { FormatError, reason, show } from "../formats/errors.ts";
import { readChunks } from "./bytes.ts";

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

/** Whole lines of a file. */
export interface LineBlock {
  bytes: Uint8Array;
  path: string;
  /** Number of the first one, from 1. */
  firstLine: number;
}

const NEWLINE = 0x0a;
const RETURN = 0x0d;
const BYTE_ORDER_MARK = "\ufeff";
const MAX_LINE_BYTES = 64 * 2 ** 20;
/** Node cannot make a longer string. */
const MAX_JSON_BYTES = 512 * 2 ** 20;

/**
 * Reads a JSON Lines file (UTF-8, one object a line; `.gz` too) a chunk at a time. A byte-order mark, CRLF line ends and
 * blank lines are fine. Throws `FormatError` naming file and line.
 */
export async function* readJsonl(path: string, options: JsonlOptions = {}): AsyncGenerator<LocatedRow> {
  for await (const block of readLineBlocks(path, options)) yield* parseLines(block, options);
}

/** Cuts a file into blocks of whole lines, about a MiB each. Throws `FormatError` at a line that is too long. */
export async function* readLineBlocks(path: string, options: JsonlOptions = {}): AsyncGenerator<LineBlock> {
  const maxLineBytes = options.maxLineBytes ?? MAX_LINE_BYTES;
  // Parts of the line at hand that came in earlier chunks.
  let parts: Uint8Array[] = [];
  let held = 0;
  let line = 1;
  for await (const chunk of readChunks(path)) {
    const end = chunk.lastIndexOf(NEWLINE) + 1;
    if (end > 0) {
      const bytes = parts.length === 0 ? chunk.subarray(0, end) : Buffer.concat([...parts, chunk.subarray(0, end)]);
      yield { bytes, path, firstLine: line };
      line += countLines(bytes);
      parts = [];
      held = 0;
    }
    if (end < chunk.length) {
      parts.push(chunk.subarray(end));
      held += chunk.length - end;
      if (held > maxLineBytes) throw tooLong(`${path}:${line}`, held, maxLineBytes);
    }
  }
  if (held > 0) yield { bytes: Buffer.concat(parts), path, firstLine: line };
}

/** The rows of a block; blank lines have none. Throws `FormatError` naming file and line. */
export function* parseLines({ bytes, path, firstLine }: LineBlock, options: JsonlOptions = {}): Generator<LocatedRow> {
  const maxLineBytes = options.maxLineBytes ?? MAX_LINE_BYTES;
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const valid = isUtf8(buffer);
  let line = firstLine;
  for (let start = 0; start < buffer.length; line++) {
    const newline = buffer.indexOf(NEWLINE, start);
    const end = newline === -1 ? buffer.length : newline;
    const where = `${path}:${line}`;
    if (end - start > maxLineBytes) throw tooLong(where, end - start, maxLineBytes);
    if (!valid && !isUtf8(buffer.subarray(start, end))) throw notUtf8(where);
    const row = parseLine(
      buffer.toString("utf8", start, buffer[end - 1] === RETURN ? end - 1 : end),
      where,
      line === 1,
    );
    if (row !== null) yield { row, where };
    start = end + 1;
  }
}

function countLines(bytes: Uint8Array): number {
  let count = 0;
  for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, at + 1)) count++;
  return count;
}

/** Reads a file that is one JSON array of objects. Throws `FormatError` naming file, and line or index. */
export async function readJsonArray(path: string): Promise<LocatedRow[]> {
  const bytes = await readFile(path);
  if (bytes.length > MAX_JSON_BYTES) {
    const found = `${bytes.length} bytes`;
    const expected = `at most ${MAX_JSON_BYTES} in one array; JSON Lines (one object a line) can be any size`;
    throw new FormatError({ file: path, field: "contents", found, expected });
  }
  if (!isUtf8(bytes)) throw notUtf8(path);
  const text = bytes.toString("utf8").replace(/^\ufeff/, "");
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

function parseLine(contents: string, where: string, isFirst: boolean): Row | null {
  const text = isFirst && contents.startsWith(BYTE_ORDER_MARK) ? contents.slice(1) : contents;
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

/** Throws `FormatError` unless a value is an object. */
export function checkRow(value: unknown, where: string): Row {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Row;
  throw new FormatError({
    file: where,
    field: "row",
    found: show(value),
    expected: 'an object, such as {"text": "…"}',
  });
}

function notUtf8(where: string): FormatError {
  return new FormatError({ file: where, field: "text", found: "bytes that are not UTF-8", expected: "UTF-8" });
}

function tooLong(where: string, found: number, limit: number): FormatError {
  const expected = `at most ${limit} (maxLineBytes); is the file one object a line?`;
  return new FormatError({ file: where, field: "line", found: `${found} bytes or more`, expected });
}
