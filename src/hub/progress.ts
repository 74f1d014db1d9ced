import type { FileMetadata } from "./metadata.ts";

/** How far a download is. Files that were in the cache already are not counted. */
export interface HubProgress {
  /** The file that just advanced. */
  readonly file: string;
  /** Bytes there are of all files of this download, those kept from an earlier run included. */
  readonly done: number;
  /** Bytes of all files; grows where a server does not tell a size beforehand. */
  readonly total: number;
  /** Files of this download that are there, and of all. */
  readonly files: { readonly done: number; readonly total: number };
}

/** Not every packet is news. */
const INTERVAL_MS = 50;

/** Adds up the files' progress and reports it, at most twenty times a second and whenever a file is there. */
export class ProgressMeter {
  readonly #sizes = new Map<string, number>();
  readonly #done = new Map<string, number>();
  readonly #finished = new Set<string>();
  readonly #report: ((progress: HubProgress) => void) | undefined;
  #reportedAt = Number.NEGATIVE_INFINITY;

  constructor(files: ReadonlyMap<string, FileMetadata>, report: ((progress: HubProgress) => void) | undefined) {
    for (const [name, { size }] of files) this.#sizes.set(name, size ?? 0);
    this.#report = report;
  }

  /** `done` bytes of a file are there. */
  advance(name: string, done: number): void {
    this.#done.set(name, done);
    if (done > this.#sizes.get(name)!) this.#sizes.set(name, done);
    const now = performance.now();
    if (now - this.#reportedAt < INTERVAL_MS) return;
    this.#reportedAt = now;
    this.#send(name);
  }

  finish(name: string): void {
    this.#finished.add(name);
    this.#done.set(name, this.#sizes.get(name)!);
    this.#send(name);
  }

  #send(file: string): void {
    this.#report?.({
      file,
      done: sum(this.#done.values()),
      total: sum(this.#sizes.values()),
      files: { done: this.#finished.size, total: this.#sizes.size },
    });
  }
}

function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
