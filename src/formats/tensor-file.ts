import type { ByteFile, ByteRange } from "./byte-file.ts";
import { FormatError, show } from "./errors.ts";

/** Named tensors whose bytes can be read in ranges: a safetensors or GGUF file, or the shards of a model. */
export interface TensorSource<Info extends ByteRange = ByteRange> extends Disposable {
  /** The file or folder, for messages. */
  readonly path: string;
  /** In the order of the bytes in the file; one shard after another, if there are several. */
  readonly tensors: ReadonlyMap<string, Info>;
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

/** The tensors of one open file, which it owns. */
export class TensorFile<Info extends ByteRange> implements TensorSource<Info> {
  readonly tensors: ReadonlyMap<string, Info>;
  readonly #file: ByteFile;

  constructor(file: ByteFile, tensors: ReadonlyMap<string, Info>) {
    this.#file = file;
    this.tensors = tensors;
  }

  get path(): string {
    return this.#file.path;
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

export function noSuchTensor(file: string, name: string, count: number): FormatError {
  return new FormatError({
    file,
    field: `tensor ${show(name)}`,
    found: "no such tensor",
    expected: `one of its ${count} tensors`,
  });
}
