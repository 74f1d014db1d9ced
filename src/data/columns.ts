import { FormatError, show } from "../formats/errors.ts";
import { knownOptions, OptionError } from "../util/options.ts";
import type { LocatedRow, Row } from "./jsonl.ts";

/** Rows as columns: each name with as many values as there are rows. */
export type Columns<T extends Row = Row> = { [K in keyof T]: T[K][] };

export interface BatchedOptions {
  batched: true;
  /** Rows a call. Default 1000, as in Hugging Face's `datasets`. */
  batchSize?: number;
}

export type MaybePromise<T> = T | Promise<T>;

/** A function that makes columns of columns; they may have another number of rows. */
export type BatchTransform = (
  columns: Columns,
  indices: number[],
) => MaybePromise<Readonly<Record<string, readonly unknown[]>>>;

const BATCH_SIZE = 1000;

/** A field that a row lacks is null. */
export function toColumns(rows: readonly Row[]): Columns {
  const names = new Set(rows.flatMap((row) => Object.keys(row)));
  return Object.fromEntries([...names].map((name) => [name, rows.map((row) => row[name] ?? null)]));
}

/** Throws `FormatError` where the columns are none, or of different lengths. `where` names the batch. */
export function toRows(columns: unknown, where: string): Row[] {
  const fail = (found: string, expected: string): never => {
    throw new FormatError({ file: where, field: "columns", found, expected });
  };
  if (typeof columns !== "object" || columns === null || Array.isArray(columns)) {
    return fail(show(columns), 'an object of columns, such as {"text": ["…", "…"]}');
  }
  const entries = Object.entries(columns as Record<string, unknown>);
  const length = entries.length === 0 ? 0 : (entries[0]![1] as { length?: unknown } | null)?.length;
  for (const [name, values] of entries) {
    if (!Array.isArray(values)) fail(`${show(values)} in column ${show(name)}`, "an array, one value a row");
    const count = (values as unknown[]).length;
    if (count !== length) fail(`${count} values in column ${show(name)}`, `${length}, as in ${show(entries[0]![0])}`);
  }
  const checked = entries as [string, unknown[]][];
  return Array.from({ length: length as number }, (_, i) =>
    Object.fromEntries(checked.map(([name, values]) => [name, values[i]])),
  );
}

/** What a batched map makes of one batch. Rows know where they came from if there are as many as before. */
export function mapBatch(
  batch: readonly LocatedRow[],
  first: number,
  transform: BatchTransform,
): MaybePromise<LocatedRow[]> {
  const last = batch.at(-1)!.where;
  const where = batch.length === 1 ? last : `${batch[0]!.where} to ${last}`;
  const indices = batch.map((_, i) => first + i);
  const locate = (columns: unknown): LocatedRow[] =>
    toRows(columns, where).map((row, i, rows) => ({
      row,
      where: rows.length === batch.length ? batch[i]!.where : `${where}, mapped row ${i}`,
    }));
  const columns = transform(toColumns(batch.map(({ row }) => row)), indices);
  return columns instanceof Promise ? columns.then(locate) : locate(columns);
}

/** Options of `map`, with those of Hugging Face's that change nothing left out. Throws OptionError. */
export function mapOptions(given: object = {}): BatchedOptions | { batched?: false } {
  const {
    numProc: _,
    desc: __,
    loadFromCacheFile: ___,
    removeColumns,
    ...rest
  } = knownOptions("map", MAP_OPTIONS, given);
  if (removeColumns !== undefined && removeColumns !== null) {
    throw new OptionError(
      "map: fields that the function leaves out are gone; others go by removeColumns(names) of the result",
    );
  }
  return rest as unknown as BatchedOptions;
}

const MAP_OPTIONS = ["batched", "batchSize", "removeColumns", "numProc", "desc", "loadFromCacheFile"];

export function batchSizeOf({ batchSize = BATCH_SIZE }: BatchedOptions): number {
  if (Number.isInteger(batchSize) && batchSize > 0) return batchSize;
  throw new RangeError(`batchSize: found ${batchSize}; expected a positive integer`);
}

/** The results for all items, one after the other; a promise of them if any is a promise. */
export function mapInOrder<T, R>(
  items: readonly T[],
  call: (item: T, index: number) => MaybePromise<R>,
): MaybePromise<R[]> {
  const results: R[] = [];
  for (let i = 0; i < items.length; i++) {
    const result = call(items[i]!, i);
    if (result instanceof Promise) return finishInOrder(items, call, results, result);
    results.push(result);
  }
  return results;
}

async function finishInOrder<T, R>(
  items: readonly T[],
  call: (item: T, index: number) => MaybePromise<R>,
  results: R[],
  pending: Promise<R>,
): Promise<R[]> {
  results.push(await pending);
  for (let i = results.length; i < items.length; i++) results.push(await call(items[i]!, i));
  return results;
}

/** Throws `FormatError` unless a map's result is a row. */
export function checkMapped(row: unknown, where: string): Row {
  if (typeof row === "object" && row !== null && !Array.isArray(row)) return row as Row;
  throw new FormatError({
    file: where,
    field: "map",
    found: `a function that returns ${show(row)}`,
    expected: "a row",
  });
}

export function removeColumns(row: Row, names: readonly string[]): Row {
  return Object.fromEntries(Object.entries(row).filter(([name]) => !names.includes(name)));
}

/** In place of the old name; throws `FormatError` where the new one is taken. */
export function renameColumn({ row, where }: LocatedRow, from: string, to: string): Row {
  if (from !== to && Object.hasOwn(row, to)) {
    throw new FormatError({ file: where, field: "rename", found: `${show(to)} already there`, expected: "a new name" });
  }
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [name === from ? to : name, value]));
}
