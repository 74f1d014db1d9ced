import type { ColumnMetaData, FileMetaData, PageHeader, SchemaTree } from "hyparquet";
import { parquetSchema } from "hyparquet";
import { parquetHeader } from "hyparquet/src/column.js";
import { decompressPage } from "hyparquet/src/datapage.js";
import { compressors } from "hyparquet-compressors";
import { FormatError, show } from "../formats/errors.ts";
import { checkRuns, countRuns } from "./parquet-runs.ts";

/** Writers put 2^17 to 2^20 rows in a group; many more would not fit in memory, and a hostile file may claim any number. */
const MAX_GROUP_ROWS = 2 ** 24;
/** Values of one column of a group, those in lists included. */
const MAX_VALUES = 2 ** 26;
const MAX_PAGE_BYTES = 2 ** 30;

/** A column of the file: its path, and Parquet's greatest repetition and definition level. */
export interface ParquetLeaf {
  path: string;
  repetition: number;
  definition: number;
}

export function parquetLeaves(metadata: FileMetaData): ParquetLeaf[] {
  const walk = (tree: SchemaTree, above: ParquetLeaf): ParquetLeaf[] => {
    const kind = tree.element.repetition_type;
    const here = {
      path: tree.path.join("."),
      repetition: above.repetition + (kind === "REPEATED" ? 1 : 0),
      definition: above.definition + (kind === "REQUIRED" ? 0 : 1),
    };
    return tree.children.length === 0 ? [here] : tree.children.flatMap((child) => walk(child, here));
  };
  return parquetSchema(metadata).children.flatMap((child) => walk(child, { path: "", repetition: 0, definition: 0 }));
}

/**
 * Checks that each row group has the schema's columns and a believable number of rows, which are returned: hyparquet
 * leaves errors in columns that are not in the schema unhandled. Throws `FormatError`.
 */
export function checkRowGroups(metadata: FileMetaData, path: string): number[] {
  const fail = (group: number, found: string, expected: string): never => {
    throw new FormatError({ file: path, field: `row group ${group}`, found, expected });
  };
  const schema = parquetLeaves(metadata).map((leaf) => leaf.path);
  if (new Set(schema).size !== schema.length) fail(0, `columns ${show(schema)}`, "different names");
  return metadata.row_groups.map(({ num_rows, columns }, i) => {
    const paths = columns.map(({ meta_data }) => meta_data?.path_in_schema.join(".") ?? "");
    if (paths.join("\n") !== schema.join("\n")) fail(i, `columns ${show(paths)}`, `the schema's, ${show(schema)}`);
    const count = Number(num_rows);
    if (count >= 0 && count <= MAX_GROUP_ROWS) return count;
    return fail(i, `${num_rows} rows`, `at most ${MAX_GROUP_ROWS}: write the file with smaller row groups`);
  });
}

/** Where a column's pages lie in the file. Bytes. */
export function columnRange({ dictionary_page_offset, data_page_offset, total_compressed_size }: ColumnMetaData) {
  const start = Number(dictionary_page_offset || data_page_offset);
  return { start, end: start + Number(total_compressed_size) };
}

/**
 * Checks a column's pages: that their headers, and the run lengths in them, ask for no more values than the column has.
 * hyparquet takes them at their word, and a changed bit can ask for billions. Throws `FormatError`.
 */
export function checkPages(bytes: ArrayBuffer, column: ColumnMetaData, leaf: ParquetLeaf, path: string): void {
  const field = `column ${show(leaf.path)}`;
  const check = (value: number, most: number, what: (value: number) => string): void => {
    if (value >= 0 && value <= most) return;
    throw new FormatError({ file: path, field, found: what(value), expected: `0 to ${most}` });
  };
  const total = Number(column.num_values);
  check(total, MAX_VALUES, (n) => `${n} values`);
  const reader = { view: new DataView(bytes), offset: 0 };
  for (let left = total; reader.offset < bytes.byteLength - 1; ) {
    const header = parquetHeader(reader);
    const size = header.compressed_page_size;
    check(size, bytes.byteLength - reader.offset, (n) => `a page of ${n} bytes`);
    check(header.uncompressed_page_size, MAX_PAGE_BYTES, (n) => `a page of ${n} bytes`);
    const page = new Uint8Array(bytes, reader.offset, size);
    reader.offset += size;
    const { dictionary_page_header: dictionary, data_page_header: v1, data_page_header_v2: v2 } = header;
    if (dictionary) {
      check(dictionary.num_values, MAX_VALUES, (n) => `a dictionary of ${n} values`);
      continue;
    }
    const count = (v1 ?? v2)?.num_values ?? 0;
    check(count, left, (n) => `a page of ${n} values`);
    left -= count;
    if (v1) checkPage(page, header, column, leaf);
    else if (v2) checkPageV2(page, header, column, leaf);
  }
}

/** Page version 1: all of it compressed; levels with their length before them. */
function checkPage(page: Uint8Array, header: PageHeader, column: ColumnMetaData, leaf: ParquetLeaf): void {
  const { num_values: count, encoding } = header.data_page_header!;
  const isCoded = usesRuns(encoding);
  if (leaf.repetition === 0 && leaf.definition === 0 && !isCoded) return;
  const bytes = decompressPage(page, header.uncompressed_page_size, column.codec, compressors);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const levels = (max: number): number => {
    if (max === 0) return count;
    const start = at + 4;
    at = start + view.getUint32(at, true);
    return countRuns(bytes.subarray(start, at), levelWidth(max), count, max);
  };
  levels(leaf.repetition);
  const present = levels(leaf.definition);
  if (isCoded && present > 0) checkCoded(bytes.subarray(at), present, column.type === "BOOLEAN");
}

/** Page version 2: the levels' lengths are in the header, and only the values are compressed. */
function checkPageV2(page: Uint8Array, header: PageHeader, column: ColumnMetaData, leaf: ParquetLeaf): void {
  const v2 = header.data_page_header_v2!;
  const { num_values: count, repetition_levels_byte_length: first, definition_levels_byte_length: second } = v2;
  if (!(first >= 0 && second >= 0 && first + second <= page.length)) throw new Error("levels longer than their page");
  if (leaf.repetition > 0) checkRuns(page.subarray(0, first), levelWidth(leaf.repetition), count);
  if (leaf.definition > 0) checkRuns(page.subarray(first, first + second), levelWidth(leaf.definition), count);
  const present = count - v2.num_nulls;
  if (!(present >= 0 && present <= count)) throw new Error(`${v2.num_nulls} nulls of ${count} values`);
  if (!usesRuns(v2.encoding) || present === 0) return;
  const packed = page.subarray(first + second);
  const size = header.uncompressed_page_size - first - second;
  const bytes = v2.is_compressed === false ? packed : decompressPage(packed, size, column.codec, compressors);
  checkCoded(bytes, present, column.type === "BOOLEAN");
}

/** Values as runs: booleans with the runs' length before them, indices into a dictionary with their width. */
function checkCoded(bytes: Uint8Array, count: number, isBoolean: boolean): void {
  if (isBoolean) checkRuns(bytes.subarray(4), 1, count);
  else if (bytes[0] !== 0) checkRuns(bytes.subarray(1), bytes[0] ?? 0, count);
}

const usesRuns = (encoding: string): boolean =>
  encoding === "RLE" || encoding.endsWith("_DICTIONARY") || encoding === "PLAIN_DICTIONARY";
const levelWidth = (max: number): number => 32 - Math.clz32(max);
