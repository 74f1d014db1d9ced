import type { ByteFile } from "./byte-file.ts";
import { FormatError } from "./errors.ts";

/** Bytes a GGUF header may take. A 256k-entry vocabulary with scores and merges takes about 20 MB. */
export const MAX_GGUF_HEADER_BYTES = 100_000_000;
const WINDOW_BYTES = 2 ** 20;

/**
 * Reads a header forward through a window over the file. Nothing is allocated for a length before it is known that the
 * file goes on for that long. Every shortfall is a `FormatError` naming `field`, which the parser keeps current.
 */
export class GgufCursor {
  field = "header";
  readonly #file: ByteFile;
  readonly #end: number;
  #window: Buffer = Buffer.alloc(0);
  /** Position in the file of the window's first byte. */
  #windowStart = 0;
  /** Next byte to read, in the window. */
  #at = 0;
  readonly #strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  constructor(file: ByteFile) {
    this.#file = file;
    this.#end = Math.min(file.size, MAX_GGUF_HEADER_BYTES);
  }

  get position(): number {
    return this.#windowStart + this.#at;
  }

  /** Bytes left in the file, or to the limit of a header. */
  get remaining(): number {
    return this.#end - this.position;
  }

  fail(found: string, expected: string): never {
    throw new FormatError({ file: this.#file.path, field: this.field, found, expected });
  }

  u32(): number {
    const at = this.#take(4);
    return this.#window.readUInt32LE(at);
  }

  u64(): bigint {
    const at = this.#take(8);
    return this.#window.readBigUInt64LE(at);
  }

  /** A u64 that counts or measures something, at most `limit` (< 2⁵³). */
  size(limit: number, expected: string): number {
    const at = this.#take(8);
    const high = this.#window.readUInt32LE(at + 4);
    const value = high * 2 ** 32 + this.#window.readUInt32LE(at);
    if (high >= 2 ** 21 || value > limit) this.fail(String(this.#window.readBigUInt64LE(at)), expected);
    return value;
  }

  /** A u64 length and that many bytes of UTF-8. */
  string(): string {
    const at = this.#take(8);
    const length = this.#window.readUInt32LE(at + 4) * 2 ** 32 + this.#window.readUInt32LE(at);
    const start = this.#take(length);
    const text = this.#window.toString("utf8", start, start + length);
    // Lenient decoding is several times faster; what it replaced, if anything, shows as U+FFFD.
    if (text.includes("\ufffd")) this.#checkUtf8(start, length);
    return text;
  }

  /** Fills `target`, whose length must have passed `require` before it was allocated. */
  bytes(target: Uint8Array): void {
    if (target.length <= WINDOW_BYTES) {
      const at = this.#take(target.length);
      target.set(this.#window.subarray(at, at + target.length));
      return;
    }
    this.require(target.length);
    this.#file.readSync(target, this.position, this.field);
    this.#windowStart = this.position + target.length;
    this.#window = Buffer.alloc(0);
    this.#at = 0;
  }

  /** Throws unless `length` more bytes are there. */
  require(length: number): void {
    if (length <= this.remaining) return;
    const end = this.#end < this.#file.size ? "the limit of a header" : "the end of the file (cut short?)";
    this.fail(`${length} bytes at byte ${this.position}`, `at most the ${this.remaining} bytes to ${end}`);
  }

  /** Moves past `length` bytes, which lie in the window from the returned index on. */
  #take(length: number): number {
    if (this.#at + length > this.#window.length) {
      this.require(length);
      this.#fill(this.position, length);
    }
    const at = this.#at;
    this.#at += length;
    return at;
  }

  #fill(position: number, atLeast: number): void {
    const length = Math.min(Math.max(WINDOW_BYTES, atLeast), this.#end - position);
    this.#window = Buffer.allocUnsafe(length);
    this.#windowStart = position;
    this.#at = 0;
    this.#file.readSync(this.#window, position, this.field);
  }

  #checkUtf8(start: number, length: number): void {
    try {
      this.#strictUtf8.decode(this.#window.subarray(start, start + length));
    } catch {
      this.fail(`a string at byte ${this.#windowStart + start} that is not UTF-8`, "UTF-8");
    }
  }
}
