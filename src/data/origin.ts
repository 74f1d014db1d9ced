import { FormatError } from "../formats/errors.ts";
import type { DataFile, DataFormat } from "./files.ts";
import type { LocatedRow, Row } from "./jsonl.ts";

/** Where a data set's rows were read, whatever has been made of them since. */
export interface RowOrigin {
  /** None: they were made in memory. */
  readonly files: readonly DataFile[];
  /** Rows there were at first; absent where that is not known, as they are read when they are asked for. */
  readonly read?: number;
}

/** Rows with where they came from, and the files where those that are missing would have come from. */
export type LocatedRows<T extends Row = Row> = Iterable<LocatedRow & { row: T }> & { readonly origin?: RowOrigin };
export type LocatedStream<T extends Row = Row> = AsyncIterable<LocatedRow & { row: T }> & {
  readonly origin?: RowOrigin;
};

export function joinOrigins(origins: readonly RowOrigin[]): RowOrigin {
  const files = origins.flatMap((origin) => origin.files);
  if (origins.some(({ read }) => read === undefined)) return { files };
  return { files, read: origins.reduce((sum, { read }) => sum + read!, 0) };
}

const NAMED_FILES = 3;

/** What a row is in a file of each format. */
const ROWS: Readonly<Record<DataFormat, string>> = {
  jsonl: "a JSON object on each line",
  json: "an array of objects, or an object on each line",
  csv: "a line of column names, then one for each row",
  tsv: "a line of column names, then one for each row",
  parquet: "a table with rows",
};

/** A data set without rows, where some are needed. */
export function noRows(origin: RowOrigin | undefined): FormatError {
  const { files, read } = origin ?? { files: [], read: 0 };
  const named = files.slice(0, NAMED_FILES).map(({ path }) => path);
  if (files.length > NAMED_FILES) named.push(`… (${files.length} files)`);
  const file = files.length === 0 ? undefined : named.join(", ");
  const left = "a filter, or a part of a split, that leaves at least one";
  if (read !== undefined && read > 0) {
    return new FormatError({ file, field: "data set", found: `none left of ${read} rows`, expected: left });
  }
  const kinds = [...new Set(files.map(({ format }) => ROWS[format]))];
  const some = kinds.length === 0 ? "at least one" : `at least one (${kinds.join("; ")})`;
  const expected = read === undefined ? `${some}, and ${left}` : some;
  return new FormatError({ file, field: "data set", found: "no rows", expected });
}
