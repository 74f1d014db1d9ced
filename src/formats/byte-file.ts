import { closeSync, fstatSync, openSync, read, readSync, statSync } from "node:fs";
import { endianness } from "node:os";
import { promisify } from "node:util";
import { FormatError, reason } from "./errors.ts";

/** Where a tensor's bytes lie: absolute position in the file, and length. Bytes. */
export interface ByteRange {
  readonly start: number;
  readonly byteLength: number;
}

// One read call at a time: Node caps a call at 2 GiB, and a close() should not wait long for a read in flight.
const CHUNK_BYTES = 32 * 2 ** 20;
const readAsync = promisify(read);

/**
 * A regular file opened for positioned reads straight into the caller's memory (a view of native memory as well).
 * Reads either fill their target or throw `FormatError`: a file that became shorter never yields stale bytes.
 */
export class ByteFile {
  readonly path: string;
  /** Bytes, when opened. */
  readonly size: number;
  readonly #fd: number;
  #readsInFlight = 0;
  #closed = false;

  constructor(path: string) {
    this.path = path;
    if (endianness() !== "LE") this.#fail("byte order", "a big-endian machine", "a little-endian machine");
    let fd: number | undefined;
    try {
      // Asked before opening: opening a named pipe would wait for a writer.
      if (!statSync(path).isFile()) this.#fail("file", "a folder or device", "a regular file");
      fd = openSync(path, "r");
      this.size = fstatSync(fd).size;
    } catch (error) {
      if (fd !== undefined) closeSync(fd);
      if (error instanceof FormatError) throw error;
      throw new FormatError({
        file: path,
        field: "file",
        found: reason(error),
        expected: "a readable file",
        cause: error,
      });
    }
    this.#fd = fd;
  }

  /** Fills `target` from byte `position` of the file. `field` names the read in errors. */
  readSync(target: Uint8Array, position: number, field: string): void {
    for (let done = 0; done < target.length; ) {
      const chunk = target.subarray(done, done + CHUNK_BYTES);
      this.#checkOpen(field);
      let count: number;
      try {
        count = readSync(this.#fd, chunk, 0, chunk.length, position + done);
      } catch (error) {
        throw this.#readFailure(field, error);
      }
      if (count === 0) throw this.#truncated(field, position, target.length, done);
      done += count;
    }
  }

  /** As `readSync`, off the main thread. `target` must not be used until the promise settles. */
  async read(target: Uint8Array, position: number, field: string): Promise<void> {
    this.#checkOpen(field);
    this.#readsInFlight++;
    try {
      for (let done = 0; done < target.length; ) {
        const chunk = target.subarray(done, done + CHUNK_BYTES);
        this.#checkOpen(field);
        const { bytesRead } = await readAsync(this.#fd, chunk, 0, chunk.length, position + done).catch((error) => {
          throw this.#readFailure(field, error);
        });
        if (bytesRead === 0) throw this.#truncated(field, position, target.length, done);
        done += bytesRead;
      }
    } finally {
      this.#readsInFlight--;
      if (this.#closed && this.#readsInFlight === 0) closeSync(this.#fd);
    }
  }

  /**
   * The view of `target` that bytes `[offset, offset + length)` of `range` are to be read into, and their position.
   * `length` defaults to the rest of the range. Throws `FormatError` if they are not all in the range, or do not fit.
   */
  locate(field: string, range: ByteRange, target: Uint8Array, offset = 0, length = range.byteLength - offset) {
    if (!(Number.isSafeInteger(offset) && offset >= 0 && offset <= range.byteLength))
      this.#fail(field, `a read at offset ${offset}`, `an offset within its ${range.byteLength} bytes`);
    if (!(Number.isSafeInteger(length) && length >= 0 && length <= range.byteLength - offset))
      this.#fail(field, `a read of ${length} bytes at offset ${offset}`, `at most ${range.byteLength - offset} bytes`);
    if (target.byteLength < length)
      this.#fail(field, `a target of ${target.byteLength} bytes`, `room for the ${length} bytes read`);
    return { view: target.subarray(0, length), position: range.start + offset };
  }

  /** Idempotent. A read in flight stops after its current chunk, with an error; the file is closed after it. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    // A descriptor closed under a read in flight could be reused, and the read would fetch another file's bytes.
    if (this.#readsInFlight === 0) closeSync(this.#fd);
  }

  #fail(field: string, found: string, expected: string): never {
    throw new FormatError({ file: this.path, field, found, expected });
  }

  #checkOpen(field: string): void {
    if (this.#closed) this.#fail(field, "a closed file", "a read before close()");
  }

  #readFailure(field: string, cause: unknown): FormatError {
    return new FormatError({ file: this.path, field, found: reason(cause), expected: "a readable file", cause });
  }

  #truncated(field: string, position: number, length: number, done: number): FormatError {
    return new FormatError({
      file: this.path,
      field,
      found: `the end of the file at byte ${position + done}`,
      expected: `${length} bytes from byte ${position} (the file was cut short since it was opened)`,
    });
  }
}
