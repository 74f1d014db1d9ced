import { ByteFile } from "./byte-file.ts";
import { FormatError, show } from "./errors.ts";
import { parseHeader, parseHeaderLength, type SafetensorsInfo } from "./safetensors-header.ts";

/** Named tensors whose bytes can be read in ranges: one safetensors file, or the shards of a model. */
export interface TensorSource extends Disposable {
  /** The file or folder, for messages. */
  readonly path: string;
  readonly tensors: ReadonlyMap<string, SafetensorsInfo>;
  readonly metadata: ReadonlyMap<string, string>;
  /**
   * Reads bytes `[offset, offset + length)` of a tensor (little endian, row-major) into the start of `target`, off the
   * main thread; the default is the whole tensor. `target` may view native memory, and must stay valid until then.
   * Throws `FormatError` if there is no such tensor, it is shorter, `target` is too small, or the file was cut short.
   */
  readInto(name: string, target: Uint8Array, offset?: number, length?: number): Promise<void>;
  /** As `readInto`, blocking. */
  readIntoSync(name: string, target: Uint8Array, offset?: number, length?: number): void;
  /** Idempotent; reads in flight fail. `Symbol.dispose` does the same. */
  close(): void;
}

/** One safetensors file, validated. Only the header is held in memory. */
export class SafetensorsFile implements TensorSource {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, SafetensorsInfo>;
  readonly metadata: ReadonlyMap<string, string>;
  readonly #file: ByteFile;

  /** Throws `FormatError`, with nothing left open. */
  constructor(path: string) {
    this.path = path;
    this.#file = new ByteFile(path);
    try {
      const { size } = this.#file;
      if (size < 8)
        throw new FormatError({
          file: path,
          field: "file length",
          found: `${size} bytes`,
          expected: "at least 8 bytes",
        });
      const first8 = new Uint8Array(8);
      this.#file.readSync(first8, 0, "header length");
      const header = new Uint8Array(parseHeaderLength(first8, path, size));
      this.#file.readSync(header, 8, "header");
      ({ tensors: this.tensors, metadata: this.metadata } = parseHeader(header, path, size - 8 - header.length));
    } catch (error) {
      this.#file.close();
      throw error;
    }
  }

  async readInto(name: string, target: Uint8Array, offset?: number, length?: number): Promise<void> {
    const { field, view, position } = this.#locate(name, target, offset, length);
    await this.#file.read(view, position, field);
  }

  readIntoSync(name: string, target: Uint8Array, offset?: number, length?: number): void {
    const { field, view, position } = this.#locate(name, target, offset, length);
    this.#file.readSync(view, position, field);
  }

  close(): void {
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #locate(name: string, target: Uint8Array, offset?: number, length?: number) {
    const info = this.tensors.get(name);
    if (!info) throw noSuchTensor(this.path, name, this.tensors.size);
    const field = `tensor ${show(name)}`;
    return { field, ...this.#file.locate(field, info, target, offset, length) };
  }
}

/** Opens and validates one safetensors file. Throws `FormatError`. */
export function openSafetensors(path: string): SafetensorsFile {
  return new SafetensorsFile(path);
}

export function noSuchTensor(file: string, name: string, count: number): FormatError {
  return new FormatError({
    file,
    field: `tensor ${show(name)}`,
    found: "no such tensor",
    expected: `one of its ${count} tensors`,
  });
}
