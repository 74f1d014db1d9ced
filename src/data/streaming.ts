import { Rng } from "../util/rng.ts";
import {
  type BatchedOptions,
  type BatchTransform,
  batchSizeOf,
  type Columns,
  checkMapped,
  type MaybePromise,
  mapBatch,
  mapOptions,
  removeColumns,
  renameColumn,
} from "./columns.ts";
import { checkCount, Dataset } from "./dataset.ts";
import { findDataFiles, type LoadOptions, loadOptions } from "./files.ts";
import { fromHub } from "./hub-source.ts";
import type { LocatedRow, Row } from "./jsonl.ts";
import { joinOrigins, type LocatedStream, type RowOrigin } from "./origin.ts";
import { readRows } from "./read.ts";
import type { ResponseParts } from "./responses.ts";
import { parseSplit, sliceRange } from "./split.ts";

export interface ShuffleOptions {
  /** Default 42. */
  seed?: number;
  /** Rows held, among which the next one is drawn. Default 1000, as in Hugging Face's `datasets`. */
  bufferSize?: number;
}

type Located<T extends Row> = LocatedRow & { row: T };
type Source<T extends Row> = () => AsyncIterable<Located<T>>;

/**
 * Rows that are read, and mapped, only as they are asked for, so that a data set may be larger than memory. Each iteration
 * starts over and gives the same rows.
 *
 *     const dataset = await StreamingDataset.load("big.jsonl");
 *     for await (const row of dataset.filter(({ text }) => text !== "").take(10)) console.log(row);
 */
export class StreamingDataset<T extends Row = Row> {
  readonly #source: Source<T>;
  readonly #origin: RowOrigin;
  /** Set by `trainOnResponsesOnly`: what of the rows is trained on. */
  readonly responses: ResponseParts | null;

  private constructor(source: Source<T>, origin: RowOrigin, responses: ResponseParts | null = null) {
    this.#source = source;
    this.#origin = origin;
    this.responses = responses;
  }

  /** As `Dataset.load`; a part of a split ("train[:1000]") is counted in rows from the start. */
  static async load<T extends Row = Row>(
    source: string | readonly string[],
    given: LoadOptions = {},
  ): Promise<StreamingDataset<T>> {
    const options = loadOptions(source, given);
    const slice = parseSplit(options.split);
    const files = await findDataFiles(source, {
      resolve: fromHub,
      ...options,
      ...(slice !== null && { split: slice.split }),
    });
    const all = new StreamingDataset(() => readRows(files) as LocatedStream<T>, { files });
    if (slice === null) return all;
    if (/[%-]/.test(slice.start + slice.end)) {
      const found = `"${options.split}"`;
      throw new RangeError(
        `split: found ${found} of rows that are streamed; expected numbers of rows, as "train[:1000]"`,
      );
    }
    const [start, end] = sliceRange(slice, Number.POSITIVE_INFINITY);
    return end === Number.POSITIVE_INFINITY ? all.skip(start) : all.skip(start).take(end - start);
  }

  /** Rows of a function that starts them over each time it is called. */
  static from<T extends Row>(start: () => Iterable<T> | AsyncIterable<T>): StreamingDataset<T> {
    const rows = async function* (): AsyncGenerator<Located<T>> {
      let index = 0;
      for await (const row of start()) yield { row, where: `row ${index++}` };
    };
    return new StreamingDataset(rows, { files: [] });
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for await (const { row } of this.#source()) yield row;
  }

  /** Rows with where they came from. */
  located(): LocatedStream<T> {
    return { origin: this.#origin, [Symbol.asyncIterator]: () => this.#source()[Symbol.asyncIterator]() };
  }

  /** As `Dataset.map`; functions are called as rows are asked for. */
  map<U extends Row>(transform: (row: T, index: number) => MaybePromise<U>): StreamingDataset<U>;
  map<U extends Row = Row>(
    transform: (columns: Columns<T>, indices: number[]) => MaybePromise<{ readonly [K in keyof U]: readonly U[K][] }>,
    options: BatchedOptions,
  ): StreamingDataset<U>;
  map(transform: (...args: never[]) => unknown, given?: BatchedOptions): StreamingDataset {
    const options = mapOptions(given);
    if (options.batched) return this.#mapBatches(transform as BatchTransform, batchSizeOf(options));
    const call = transform as unknown as (row: T, index: number) => MaybePromise<unknown>;
    return this.#derive(async function* (rows) {
      let index = 0;
      for await (const { row, where } of rows) yield { row: checkMapped(await call(row, index++), where), where };
    });
  }

  filter(keep: (row: T, index: number) => MaybePromise<boolean>): StreamingDataset<T> {
    return this.#derive(async function* (rows) {
      let index = 0;
      for await (const item of rows) if (await keep(item.row, index++)) yield item;
    });
  }

  /** The first `count` rows; no more are read. */
  take(count: number): StreamingDataset<T> {
    checkCount(count);
    return this.#derive(async function* (rows) {
      if (count === 0) return;
      let taken = 0;
      for await (const item of rows) {
        yield item;
        if (++taken === count) return;
      }
    });
  }

  skip(count: number): StreamingDataset<T> {
    checkCount(count);
    return this.#derive(async function* (rows) {
      let index = 0;
      for await (const item of rows) if (index++ >= count) yield item;
    });
  }

  /**
   * In an order that is random among `bufferSize` neighbours, the same for the same seed: the buffer is filled, then each
   * further row takes the place of one drawn from it. Shuffle the file itself where its order matters at large.
   */
  shuffle({ seed = 42, bufferSize = 1000 }: ShuffleOptions = {}): StreamingDataset<T> {
    if (!Number.isInteger(bufferSize) || bufferSize < 1) {
      throw new RangeError(`bufferSize: found ${bufferSize}; expected a positive integer`);
    }
    return this.#derive(async function* (rows) {
      const rng = new Rng(seed);
      const buffer: Located<T>[] = [];
      for await (const item of rows) {
        if (buffer.length < bufferSize) {
          buffer.push(item);
          continue;
        }
        const drawn = rng.below(bufferSize);
        yield buffer[drawn]!;
        buffer[drawn] = item;
      }
      if (buffer.length > 0) for (const i of rng.permutation(buffer.length)) yield buffer[i]!;
    });
  }

  /** These rows, then those of the others. */
  concatenate(...others: readonly StreamingDataset<T>[]): StreamingDataset<T> {
    const all = [this, ...others];
    const rows = async function* (): AsyncGenerator<Located<T>> {
      for (const dataset of all) yield* dataset.located();
    };
    return new StreamingDataset(rows, joinOrigins(all.map((dataset) => dataset.#origin)), this.responses);
  }

  removeColumns<K extends keyof T & string>(names: K | readonly K[]): StreamingDataset<Omit<T, K> & Row> {
    const list: readonly string[] = typeof names === "string" ? [names] : names;
    return this.map((row) => removeColumns(row, list) as Omit<T, K> & Row);
  }

  renameColumn(from: keyof T & string, to: string): StreamingDataset {
    return this.#derive(async function* (rows) {
      for await (const item of rows) yield { row: renameColumn(item, from, to), where: item.where };
    });
  }

  /** All rows, in memory. */
  async toDataset(): Promise<Dataset<T>> {
    const dataset = await Dataset.fromLocated(this.located());
    return this.responses === null ? dataset : dataset.trainOnResponsesOnly(this.responses);
  }

  /** See `trainOnResponsesOnly`. */
  trainOnResponsesOnly(parts: ResponseParts = {}): this {
    return new StreamingDataset(this.#source, this.#origin, parts) as this;
  }

  #derive<U extends Row>(transform: (rows: AsyncIterable<Located<T>>) => AsyncIterable<Located<U>>) {
    return new StreamingDataset(() => transform(this.#source()), this.#origin, this.responses);
  }

  #mapBatches(transform: BatchTransform, size: number): StreamingDataset {
    return this.#derive(async function* (rows) {
      let batch: LocatedRow[] = [];
      let first = 0;
      for await (const item of rows) {
        batch.push(item);
        if (batch.length < size) continue;
        yield* await mapBatch(batch, first, transform);
        first += size;
        batch = [];
      }
      if (batch.length > 0) yield* await mapBatch(batch, first, transform);
    });
  }
}
