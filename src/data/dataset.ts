import { FormatError } from "../formats/errors.ts";
import { Rng } from "../util/rng.ts";
import { type JsonlOptions, type LocatedRow, type Row, readJsonArray, readJsonl } from "./jsonl.ts";

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
 * much later can still name file and line.
 */
export class Dataset<T extends Row = Row> {
  readonly #rows: readonly T[];
  readonly #where: readonly string[];

  private constructor(rows: readonly T[], where: readonly string[]) {
    this.#rows = rows;
    this.#where = where;
  }

  static fromList<T extends Row>(rows: Iterable<T>): Dataset<T> {
    const list = [...rows];
    return new Dataset(
      list,
      list.map((_, i) => `row ${i}`),
    );
  }

  /** One JSON object a line. Several files follow one another. Throws `FormatError` naming file and line. */
  static async fromJsonl(paths: string | readonly string[], options: JsonlOptions = {}): Promise<Dataset> {
    const located: LocatedRow[] = [];
    for (const path of typeof paths === "string" ? [paths] : paths) {
      for await (const row of readJsonl(path, options)) located.push(row);
    }
    return Dataset.#fromLocated(located);
  }

  /** A file that is one JSON array of objects. */
  static async fromJson(path: string): Promise<Dataset> {
    return Dataset.#fromLocated(await readJsonArray(path));
  }

  static #fromLocated(located: readonly LocatedRow[]): Dataset {
    return new Dataset(
      located.map(({ row }) => row),
      located.map(({ where }) => where),
    );
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

  /** Where a row came from: "train.jsonl:12", or "row 3" of a list. */
  where(index: number): string {
    return this.#where[this.#check(index)]!;
  }

  [Symbol.iterator](): IterableIterator<T> {
    return this.#rows[Symbol.iterator]();
  }

  /** Rows with where they came from. */
  *located(): Generator<LocatedRow & { row: T }> {
    for (let i = 0; i < this.#rows.length; i++) yield { row: this.#rows[i]!, where: this.#where[i]! };
  }

  /** A row for each row; a new one, not the old one changed. */
  map<U extends Row>(transform: (row: T, index: number) => U): Dataset<U> {
    return new Dataset(this.#rows.map(transform), this.#where);
  }

  filter(keep: (row: T, index: number) => boolean): Dataset<T> {
    const indices = [...this.#rows.keys()].filter((i) => keep(this.#rows[i]!, i));
    return this.select(indices);
  }

  /** The rows at these indices, in their order. */
  select(indices: Iterable<number>): Dataset<T> {
    const checked = Array.from(indices, (index) => this.#check(index));
    return new Dataset(
      checked.map((i) => this.#rows[i]!),
      checked.map((i) => this.#where[i]!),
    );
  }

  /** In random order; the same for the same seed. */
  shuffle(seed = 42): Dataset<T> {
    return this.select(new Rng(seed).permutation(this.length));
  }

  /** Splits in two, both non-empty; a share rounds up for the test set, as in scikit-learn and `datasets`. */
  trainTestSplit({ testSize, seed = 42, shuffle = true }: SplitOptions): { train: Dataset<T>; test: Dataset<T> } {
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

  #check(index: number): number {
    const positive = index < 0 ? index + this.length : index;
    if (Number.isInteger(index) && positive >= 0 && positive < this.length) return positive;
    throw new RangeError(`row: found index ${index}; expected an integer below ${this.length}, the number of rows`);
  }
}
