import { FormatError, show } from "../formats/errors.ts";
import { readChunks } from "./bytes.ts";
import type { LocatedRow, Row } from "./jsonl.ts";

export interface CsvOptions {
  /** Default ","; "\t" for tab-separated values. One character. */
  delimiter?: string;
  /** A longer record is an error: a quote was left open. Characters; default 64 Mi. */
  maxRecordLength?: number;
}

/** One record's fields, and where the next begins. */
interface CsvRecord {
  fields: string[];
  next: number;
}

const NEWLINE = 0x0a;
const MAX_RECORD_LENGTH = 64 * 2 ** 20;

/**
 * Reads a CSV file (RFC 4180, UTF-8) a chunk at a time: fields may be quoted, with quotes doubled and line ends kept. The
 * first record names the columns; a nameless one is "Unnamed: 0", as pandas calls it. All values are strings, the empty
 * one included. A byte-order mark, LF or CRLF line ends and blank lines are fine, and so is a quote inside an unquoted
 * field. Throws `FormatError` naming the file, and the line its record starts at.
 */
export async function* readCsv(path: string, options: CsvOptions = {}): AsyncGenerator<LocatedRow> {
  const { delimiter = ",", maxRecordLength = MAX_RECORD_LENGTH } = options;
  if (delimiter.length !== 1 || '"\r\n'.includes(delimiter)) {
    throw new RangeError(`delimiter: found ${show(delimiter)}; expected one character, no quote and no line end`);
  }
  let header: string[] | null = null;
  let line = 1;
  let text = "";
  // Not tried again before the text has doubled, else a record of many chunks would be read once for each of them.
  let enough = 0;
  for await (const { chunk, isLast } of decode(path, () => line)) {
    text += chunk;
    if (!isLast && text.length < enough) continue;
    let at = 0;
    while (at < text.length) {
      const where = `${path}:${line}`;
      const record = readRecord(text, at, delimiter, isLast, where);
      if ((record?.next ?? text.length) - at > maxRecordLength) throw tooLong(where, maxRecordLength);
      if (record === null) break;
      line += countLineEnds(text, at, record.next);
      at = record.next;
      if (record.fields.length === 1 && record.fields[0] === "") continue;
      if (header === null) header = checkHeader(record.fields, where);
      else yield { row: toRow(header, record.fields, where), where };
    }
    text = text.slice(at);
    enough = 2 * text.length;
  }
  if (header === null) {
    throw new FormatError({ file: path, field: "header", found: "an empty file", expected: "a line of column names" });
  }
}

async function* decode(path: string, line: () => number): AsyncGenerator<{ chunk: string; isLast: boolean }> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const decodeChunk = (bytes?: Buffer): string => {
    try {
      return decoder.decode(bytes, { stream: bytes !== undefined });
    } catch (cause) {
      const file = `${path}:${line()}`;
      throw new FormatError({
        file,
        field: "text",
        found: "bytes after it that are not UTF-8",
        expected: "UTF-8",
        cause,
      });
    }
  };
  for await (const bytes of readChunks(path)) yield { chunk: decodeChunk(bytes), isLast: false };
  yield { chunk: decodeChunk(), isLast: true };
}

/** Null if the record may go on after the text. */
function readRecord(text: string, start: number, delimiter: string, isLast: boolean, where: string): CsvRecord | null {
  const fields: string[] = [];
  const delimiterCode = delimiter.charCodeAt(0);
  for (let at = start; ; at++) {
    let value = "";
    if (text[at] === '"') {
      const quoted = readQuoted(text, at, isLast, where, fields.length);
      if (quoted === null) return null;
      ({ value, next: at } = quoted);
      if (at < text.length && text[at] !== delimiter && text[at] !== "\n") {
        const found = `${show(text.slice(at, at + 20))} after the closing quote`;
        const expected = `${show(delimiter)} or a line end; a quote within quotes is doubled`;
        throw new FormatError({ file: where, field: `column ${fields.length + 1}`, found, expected });
      }
    } else {
      const from = at;
      for (; at < text.length; at++) {
        const code = text.charCodeAt(at);
        if (code === delimiterCode || code === NEWLINE) break;
      }
      value = text.slice(from, text[at] !== delimiter && text[at - 1] === "\r" && at > from ? at - 1 : at);
    }
    fields.push(value);
    if (at >= text.length) return isLast ? { fields, next: at } : null;
    if (text[at] === "\n") return { fields, next: at + 1 };
  }
}

/** The value of a quoted field, and the position of the delimiter or "\n" after it, or of the end. */
function readQuoted(text: string, open: number, isLast: boolean, where: string, column: number) {
  let value = "";
  for (let from = open + 1; ; ) {
    const quote = text.indexOf('"', from);
    if (quote === -1) {
      if (!isLast) return null;
      const found = "a quote without its end";
      throw new FormatError({ file: where, field: `column ${column + 1}`, found, expected: 'a closing "' });
    }
    if (text[quote + 1] === '"') {
      value += text.slice(from, quote + 1);
      from = quote + 2;
      continue;
    }
    value += text.slice(from, quote);
    let next = quote + 1;
    if (text[next] === "\r" && (text[next + 1] === "\n" || next + 1 === text.length)) next++;
    if (next >= text.length && !isLast) return null;
    return { value, next };
  }
}

function checkHeader(fields: readonly string[], where: string): string[] {
  const names = fields.map((name, i) => (name.trim() === "" ? `Unnamed: ${i}` : name.trim()));
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice === undefined) return names;
  const found = `column ${show(twice)} twice`;
  throw new FormatError({ file: where, field: "header", found, expected: "a line of different column names" });
}

function toRow(header: readonly string[], fields: readonly string[], where: string): Row {
  if (fields.length !== header.length) {
    const found = `${fields.length} fields`;
    const expected = `${header.length} (${header.join(", ")}); a field with a comma or a line end needs quotes around it`;
    throw new FormatError({ file: where, field: "record", found, expected });
  }
  return Object.fromEntries(header.map((name, i) => [name, fields[i]]));
}

function countLineEnds(text: string, start: number, end: number): number {
  let count = 0;
  for (let at = text.indexOf("\n", start); at !== -1 && at < end; at = text.indexOf("\n", at + 1)) count++;
  return count;
}

function tooLong(where: string, limit: number): FormatError {
  const found = `more than ${limit} characters`;
  const expected = "an end (maxRecordLength); is a quote left open?";
  return new FormatError({ file: where, field: "record", found, expected });
}
