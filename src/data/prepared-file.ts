import { createHash, type Hash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { writeAll } from "../formats/atomic.ts";
import { ByteFile } from "../formats/byte-file.ts";
import { FormatError, show } from "../formats/errors.ts";
import type { TokenizedRow } from "./collate.ts";
import type { RecipeReport } from "./recipe-report.ts";
import type { RowStore } from "./row-store.ts";
import { rowOfBlock, type TokenBlock } from "./token-block.ts";

/**
 * Tokenized rows on disk, little-endian:
 *
 *     data     i32   of each row its ids, then [start, end) of each range of them that is trained on
 *     index    u32   of each row the numbers of its ids and of its ranges
 *     details  JSON  report and source files
 *     footer   64 bytes: "USLPREP1", u32 format, u32 bytes of details, u64 rows, u64 bytes of data,
 *              SHA-256 of everything before it
 */
export const PREPARED_FORMAT = 1;

const MAGIC = "USLPREP1";
const FOOTER_BYTES = 64;
const DIGEST_AT = 32;
const CHUNK_BYTES = 4 * 2 ** 20;

export interface PreparedDetails {
  report: RecipeReport;
  /** The data files, as they were called. */
  files: string[];
}

/** Writes a file of tokenized rows, a block at a time. */
export class PreparedWriter {
  readonly #file: FileHandle;
  readonly #hash: Hash = createHash("sha256");
  readonly #index: Uint32Array[] = [];
  #rows = 0;
  #dataBytes = 0;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  async append({ data, index }: TokenBlock): Promise<void> {
    this.#index.push(index);
    this.#rows += index.length / 2;
    this.#dataBytes += data.byteLength;
    await this.#write(bytesOf(data));
  }

  async finish(details: PreparedDetails): Promise<void> {
    for (const part of this.#index) await this.#write(bytesOf(part));
    const json = Buffer.from(JSON.stringify(details));
    await this.#write(json);
    const footer = Buffer.alloc(FOOTER_BYTES);
    footer.write(MAGIC, 0, "latin1");
    footer.writeUInt32LE(PREPARED_FORMAT, 8);
    footer.writeUInt32LE(json.length, 12);
    footer.writeBigUInt64LE(BigInt(this.#rows), 16);
    footer.writeBigUInt64LE(BigInt(this.#dataBytes), 24);
    this.#hash.update(footer.subarray(0, DIGEST_AT));
    this.#hash.digest().copy(footer, DIGEST_AT);
    await writeAll(this.#file, footer);
  }

  async #write(bytes: Uint8Array): Promise<void> {
    this.#hash.update(bytes);
    await writeAll(this.#file, bytes);
  }
}

/** A file of tokenized rows, each read when asked for; 12 bytes a row are kept in memory. */
export class PreparedFile implements RowStore {
  readonly details: PreparedDetails;
  readonly length: number;
  readonly #file: ByteFile;
  readonly #lengths: Uint32Array;
  /** Where each row starts, and one past the last. Bytes. */
  readonly #starts: Float64Array;

  private constructor(file: ByteFile, details: PreparedDetails, index: Uint32Array) {
    this.#file = file;
    this.details = details;
    this.length = index.length / 2;
    this.#lengths = new Uint32Array(this.length);
    this.#starts = new Float64Array(this.length + 1);
    for (let i = 0; i < this.length; i++) {
      this.#lengths[i] = index[2 * i]!;
      this.#starts[i + 1] = this.#starts[i]! + 4 * (index[2 * i]! + 2 * index[2 * i + 1]!);
    }
  }

  /**
   * Opens a file, and checks all of it against its digest unless told not to.
   * Throws `FormatError` at a file that is none, of another format, cut short or changed.
   */
  static async open(path: string, { verify = true } = {}): Promise<PreparedFile> {
    const file = new ByteFile(path);
    try {
      const fail = (field: string, found: string, expected: string): never => {
        throw new FormatError({ file: path, field, found, expected });
      };
      if (file.size < FOOTER_BYTES) fail("footer", `a file of ${file.size} bytes`, `${FOOTER_BYTES} or more`);
      const footer = Buffer.alloc(FOOTER_BYTES);
      await file.read(footer, file.size - FOOTER_BYTES, "footer");
      const magic = footer.toString("latin1", 0, 8);
      if (magic !== MAGIC) fail("footer", show(magic), show(MAGIC));
      const format = footer.readUInt32LE(8);
      if (format !== PREPARED_FORMAT) fail("format", `${format}`, `${PREPARED_FORMAT}`);
      const jsonBytes = footer.readUInt32LE(12);
      const rows = Number(footer.readBigUInt64LE(16));
      const dataBytes = Number(footer.readBigUInt64LE(24));
      const size = dataBytes + 8 * rows + jsonBytes + FOOTER_BYTES;
      if (size !== file.size || dataBytes % 4 !== 0) fail("size", `${file.size} bytes`, `${size}`);
      if (verify && !(await digest(file)).equals(footer.subarray(DIGEST_AT))) {
        fail("digest", "contents that are not those that were written", "the file as it was written");
      }
      const index = new Uint32Array(2 * rows);
      await file.read(bytesOf(index), dataBytes, "index");
      const json = new Uint8Array(jsonBytes);
      await file.read(json, dataBytes + 8 * rows, "details");
      const prepared = new PreparedFile(file, JSON.parse(new TextDecoder().decode(json)) as PreparedDetails, index);
      if (prepared.#starts[rows] !== dataBytes)
        fail("index", `${prepared.#starts[rows]} bytes of rows`, `${dataBytes}`);
      return prepared;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  lengthOf(index: number): number {
    return this.#lengths[this.#check(index)]!;
  }

  get(index: number): TokenizedRow {
    const start = this.#starts[this.#check(index)]!;
    const data = new Int32Array((this.#starts[index + 1]! - start) / 4);
    this.#file.readSync(bytesOf(data), start, `row ${index}`);
    return rowOfBlock(data, this.#lengths[index]!);
  }

  close(): void {
    this.#file.close();
  }

  #check(index: number): number {
    if (Number.isInteger(index) && index >= 0 && index < this.length) return index;
    throw new RangeError(`row: found index ${index}; expected one below ${this.length}`);
  }
}

async function digest(file: ByteFile): Promise<Buffer> {
  const hash = createHash("sha256");
  const end = file.size - FOOTER_BYTES + DIGEST_AT;
  const chunk = new Uint8Array(CHUNK_BYTES);
  for (let at = 0; at < end; at += CHUNK_BYTES) {
    const part = chunk.subarray(0, Math.min(CHUNK_BYTES, end - at));
    await file.read(part, at, "contents");
    hash.update(part);
  }
  return hash.digest();
}

const bytesOf = (array: Int32Array | Uint32Array): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
