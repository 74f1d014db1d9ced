import { writeAll, writeAtomically } from "../formats/atomic.ts";
import { FormatError } from "../formats/errors.ts";
import { knownOptions } from "../util/options.ts";
import { Rng } from "../util/rng.ts";
import {
  type BatchedOptions,
  type BatchTransform,
  batchSizeOf,
  type Columns,
  checkMapped,
  type MaybePromise,
  mapBatch,
  mapInOrder,
  mapOptions,
  removeColumns,
  renameColumn,
  toRows,
} from "./columns.ts";
import { findDataFiles, type LoadOptions, loadOptions } from "./files.ts";
import { fromHub } from "./hub-source.ts";
import { type JsonlOptions, type Row, readJsonl } from "./jsonl.ts";
import { joinOrigins, type LocatedRows, type LocatedStream, type RowOrigin } from "./origin.ts";
import { readRows } from "./read.ts";
import type { ResponseParts } from "./responses.ts";
import { parseSplit, sliceRange } from "./split.ts";

export interface SplitOptions {
  /** Share of the rows (between 0 and 1) or number of them (1 and up) for the test set. */
  testSize: number;
  /** Default 42. */
  seed?: number;
  /** Draw the test rows at random (default), or take the last ones. */
  shuffle?: boolean;
}

/**
 * Rows in memory, immutable: every method returns a new data set. Rows remember where they came from, so that an error
 * much later can still name file and line. `StreamingDataset` is the same for what memory does not hold.
 *
 *     const dataset = await Dataset.load("train.jsonl");
 *     const { train, test } = dataset.filter((row) => row.output !== "").trainTestSplit({ testSize: 0.1 });
 */
export class Dataset<T extends Row = Row> {
  readonly #rows: readonly T[];
  readonly #where: readonly string[];
  readonly #origin: RowOrigin;
  /** Set by `trainOnResponsesOnly`: what of the rows is trained on. */
  readonly responses: ResponseParts | null;

  private constructor(
    rows: readonly T[],
    where: readonly string[],
    origin: RowOrigin,
    responses: ResponseParts | null = null,
  ) {
    this.#rows = rows;
    this.#where = where;
    this.#origin = origin;
    this.responses = responses;
  }

  static fromList<T extends Row>(rows: Iterable<T>): Dataset<T> {
    const list = [...rows];
    return new Dataset(
      list,
      list.map((_, i) => `row ${i}`),
      { files: [], read: list.length },
    );
  }

  /** Rows by columns, all equally long: `{text: ["a", "b"], label: [0, 1]}`. */
  static fromColumns(columns: Readonly<Record<string, readonly unknown[]>>): Dataset {
    return Dataset.fromList(toRows(columns, "columns"));
  }

  /**
   * A JSONL, JSON, CSV, TSV or Parquet file, a folder of such files, or a list of them. `split` chooses among a folder's
   * files by their names, and may take a part: "train[:1000]", "train[10%:]". An id of the hub ("organisation/name") is
   * downloaded. `T` is what the rows are said to be; that is
   * not checked. Throws `FormatError` naming file and line.
   */
  static async load<T extends Row = Row>(
    source: string | readonly string[],
    given: LoadOptions = {},
  ): Promise<Dataset<T>> {
    const options = loadOptions(source, given);
    const slice = parseSplit(options.split);
    const files = await findDataFiles(source, {
      resolve: fromHub,
      ...options,
      ...(slice !== null && { split: slice.split }),
    });
    const dataset = await Dataset.fromLocated(readRows(files) as LocatedStream<T>);
    if (slice === null) return dataset;
    const [start, end] = sliceRange(slice, dataset.length);
    return dataset.skip(start).take(end - start);
  }

  /** One JSON object a line. Several files follow one another. Throws `FormatError` naming file and line. */
  static async fromJsonl(paths: string | readonly string[], options: JsonlOptions = {}): Promise<Dataset> {
    loadOptions(paths, {});
    const list = typeof paths === "string" ? [paths] : paths;
    return Dataset.fromLocated({
      origin: { files: list.map((path) => ({ path, format: "jsonl" })) },
      async *[Symbol.asyncIterator]() {
        for (const path of list) yield* readJsonl(path, options);
      },
    });
  }

  /** A file that is one JSON array of objects, or JSON Lines. */
  static fromJson(path: string): Promise<Dataset> {
    return Dataset.load(path, { format: "json" });
  }

  /** A CSV file with a line of column names; all values are strings. */
  static fromCsv(path: string): Promise<Dataset> {
    return Dataset.load(path, { format: "csv" });
  }

  static fromParquet(path: string): Promise<Dataset> {
    return Dataset.load(path, { format: "parquet" });
  }

  /** Rows with where they came from. */
  static async fromLocated<T extends Row>(located: LocatedRows<T> | LocatedStream<T>): Promise<Dataset<T>> {
    const [rows, where]: [T[], string[]] = [[], []];
    for await (const item of located) {
      rows.push(item.row);
      where.push(item.where);
    }
    return new Dataset(rows, where, { files: [], read: rows.length, ...located.origin });
  }

  get length(): number {
    return this.#rows.length;
  }

  /** Names of all fields that any row has, in the order they first appear. */
  get columnNames(): string[] {
    const names = new Set<string>();
    for (const row of this.#rows) for (const name of Object.keys(row)) names.add(name);
    return [...names];
  }

  /** The row at an index; negative ones count from the end. Throws `RangeError`. */
  get(index: number): T {
    return this.#rows[this.#check(index)]!;
  }

  /** All values of a column; undefined where a row has none. Throws `RangeError` if no row has it. */
  column<K extends keyof T & string>(name: K): T[K][] {
    this.#checkColumns([name]);
    return this.#rows.map((row) => row[name]);
  }

  /** Where a row came from: "train.jsonl:12", or "row 3" of a list. */
  where(index: number): string {
    return this.#where[this.#check(index)]!;
  }

  [Symbol.iterator](): IterableIterator<T> {
    return this.#rows[Symbol.iterator]();
  }

  /** Rows with where they came from. */
  located(): LocatedRows<T> {
    const [rows, where] = [this.#rows, this.#where];
    return {
      origin: this.#origin,
      *[Symbol.iterator]() {
        for (let i = 0; i < rows.length; i++) yield { row: rows[i]!, where: where[i]! };
      },
    };
  }

  /**
   * A row for each row: a new one, not the old one changed (unlike Python's, where fields left out stay; write
   * `{...row, text}` for that). Functions may be async; they are then called one after the other.
   * With `batched: true` the function gets columns, of `batchSize` rows, and returns columns, of any number of rows:
   *
   *     dataset.map(({ question }) => ({ text: question.map((q) => `Q: ${q}`) }), { batched: true });
   */
  map<U extends Row>(transform: (row: T, index: number) => Promise<U>): Promise<Dataset<U>>;
  map<U extends Row>(transform: (row: T, index: number) => U): Dataset<U>;
  map<U extends Row = Row>(
    transform: (columns: Columns<T>, indices: number[]) => Promise<{ readonly [K in keyof U]: readonly U[K][] }>,
    options: BatchedOptions,
  ): Promise<Dataset<U>>;
  map<U extends Row = Row>(
    transform: (columns: Columns<T>, indices: number[]) => { readonly [K in keyof U]: readonly U[K][] },
    options: BatchedOptions,
  ): Dataset<U>;
  map(
    transform: (...args: never[]) => unknown,
    given?: BatchedOptions | { batched?: false },
  ): MaybePromise<Dataset<Row>> {
    const options = mapOptions(given);
    if (options.batched) return this.#mapBatches(transform as BatchTransform, batchSizeOf(options));
    const call = transform as unknown as (row: T, index: number) => MaybePromise<unknown>;
    const check = (row: unknown, i: number): Row => checkMapped(row, this.#where[i]!);
    const rows = mapInOrder(this.#rows, (row, i) => {
      const mapped = call(row, i);
      return mapped instanceof Promise ? mapped.then((value) => check(value, i)) : check(mapped, i);
    });
    return then(rows, (list) => new Dataset(list, this.#where, this.#origin, this.responses));
  }

  /** The rows a function says yes to. It may be async. */
  filter(keep: (row: T, index: number) => Promise<boolean>): Promise<Dataset<T>>;
  filter(keep: (row: T, index: number) => boolean): Dataset<T>;
  filter(keep: (row: T, index: number) => MaybePromise<boolean>): MaybePromise<Dataset<T>> {
    const kept = mapInOrder(this.#rows, keep);
    return then(kept, (list) => this.select([...this.#rows.keys()].filter((i) => list[i])));
  }

  /** The rows at these indices, in their order. */
  select(indices: Iterable<number>): Dataset<T> {
    const checked = Array.from(indices, (index) => this.#check(index));
    return new Dataset(
      checked.map((i) => this.#rows[i]!),
      checked.map((i) => this.#where[i]!),
      this.#origin,
      this.responses,
    );
  }

  /** The first `count` rows, or all where there are fewer. */
  take(count: number): Dataset<T> {
    return this.#slice(0, checkCount(count));
  }

  /** All but the first `count` rows. */
  skip(count: number): Dataset<T> {
    return this.#slice(checkCount(count));
  }

  /** In random order; the same for the same seed. */
  shuffle(seed = 42): Dataset<T> {
    return this.select(new Rng(seed).permutation(this.length));
  }

  /** These rows, then those of the others. */
  concatenate(...others: readonly Dataset<T>[]): Dataset<T> {
    const all = [this, ...others];
    return new Dataset(
      all.flatMap((dataset) => dataset.#rows),
      all.flatMap((dataset) => dataset.#where),
      joinOrigins(all.map((dataset) => dataset.#origin)),
      this.responses,
    );
  }

  /** Without these columns. Throws `RangeError` if there is no such column. */
  removeColumns<K extends keyof T & string>(names: K | readonly K[]): Dataset<Omit<T, K> & Row> {
    const list: readonly string[] = typeof names === "string" ? [names] : names;
    this.#checkColumns(list);
    return this.map((row) => removeColumns(row, list) as Omit<T, K> & Row);
  }

  /** With another name for a column. Throws where there is no such column, or the new name is taken. */
  renameColumn(from: keyof T & string, to: string): Dataset {
    this.#checkColumns([from]);
    return this.map((row, i) => renameColumn({ row, where: this.#where[i]! }, from, to));
  }

  /** Splits in two, both non-empty; a share rounds up for the test set, as in scikit-learn and `datasets`. */
  trainTestSplit(options: SplitOptions): { train: Dataset<T>; test: Dataset<T> } {
    const given = knownOptions("trainTestSplit", ["testSize", "seed", "shuffle"], options) as unknown as SplitOptions;
    const { testSize, seed = 42, shuffle = true } = given;
    const test = testSize > 0 && testSize < 1 ? Math.ceil(testSize * this.length) : testSize;
    if (!Number.isInteger(test) || test < 1 || test >= this.length) {
      const expected =
        this.length < 2 ? "a data set of two rows or more" : `a share between 0 and 1, or 1 to ${this.length - 1} rows`;
      throw new FormatError({ field: "testSize", found: `${testSize} of ${this.length} rows`, expected });
    }
    const order = shuffle ? [...new Rng(seed).permutation(this.length)] : [...this.#rows.keys()];
    const cut = this.length - test;
    return { train: this.select(order.slice(0, cut)), test: this.select(order.slice(cut)) };
  }

  /** Writes one JSON object a line, replacing the file as a whole. */
  toJsonl(path: string): Promise<void> {
    return writeAtomically(path, async (file) => {
      for (let start = 0; start < this.length; start += LINES_A_WRITE) {
        const lines = this.#rows.slice(start, start + LINES_A_WRITE).map((row) => `${JSON.stringify(row)}\n`);
        await writeAll(file, Buffer.from(lines.join("")));
      }
    });
  }

  /** See `trainOnResponsesOnly`. */
  trainOnResponsesOnly(parts: ResponseParts = {}): this {
    return new Dataset(this.#rows, this.#where, this.#origin, parts) as this;
  }

  #slice(start: number, end?: number): Dataset<T> {
    const [rows, where] = [this.#rows.slice(start, end), this.#where.slice(start, end)];
    return new Dataset(rows, where, this.#origin, this.responses);
  }

  #mapBatches(transform: BatchTransform, size: number): MaybePromise<Dataset<Row>> {
    const starts = Array.from({ length: Math.ceil(this.length / size) }, (_, i) => i * size);
    const batches = mapInOrder(starts, (start) => {
      const located = this.#rows.slice(start, start + size).map((row, i) => ({ row, where: this.#where[start + i]! }));
      return mapBatch(located, start, transform);
    });
    return then(batches, (list) => {
      const all = list.flat();
      return new Dataset(
        all.map(({ row }) => row),
        all.map(({ where }) => where),
        this.#origin,
        this.responses,
      );
    });
  }

  #check(index: number): number {
    const positive = index < 0 ? index + this.length : index;
    if (Number.isInteger(index) && positive >= 0 && positive < this.length) return positive;
    throw new RangeError(`row: found index ${index}; expected an integer below ${this.length}, the number of rows`);
  }

  #checkColumns(names: readonly string[]): void {
    if (this.length === 0) return;
    const known = this.columnNames;
    const missing = names.find((name) => !known.includes(name));
    if (missing !== undefined) throw new RangeError(`column: found "${missing}"; expected one of ${known.join(", ")}`);
  }
}

const LINES_A_WRITE = 1000;

function then<A, B>(value: MaybePromise<A>, next: (value: A) => B): MaybePromise<B> {
  return value instanceof Promise ? value.then(next) : next(value);
}

export function checkCount(count: number): number {
  if (Number.isInteger(count) && count >= 0) return count;
  throw new RangeError(`count: found ${count}; expected a non-negative integer`);
}
