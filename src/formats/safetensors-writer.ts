import type { FileHandle } from "node:fs/promises";
import { writeAll, writeAtomically } from "./atomic.ts";
import { FormatError, show } from "./errors.ts";
import {
  isSafetensorsDtype,
  SAFETENSORS_DTYPE_BITS,
  type SafetensorsDtype,
  safetensorsByteLength,
} from "./safetensors-dtype.ts";
import { MAX_HEADER_BYTES } from "./safetensors-header.ts";

/**
 * A tensor's bytes, whole or in chunks. Chunks are pulled one at a time, when their turn in the file comes, and each is
 * written before the next is pulled: a generator may stream from a device and reuse one buffer.
 */
export type TensorBytes = Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

export interface TensorToWrite {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  /** Row-major. */
  readonly shape: readonly number[];
  /** Little endian; exactly the bytes that dtype and shape need. */
  readonly data: TensorBytes;
}

interface SizedTensor extends TensorToWrite {
  readonly byteLength: number;
  /** UTF-8 of the name: the library sorts by these bytes, which is not JavaScript's order beyond U+FFFF. */
  readonly nameBytes: Buffer;
}

const DTYPE_ORDER = new Map(Object.keys(SAFETENSORS_DTYPE_BITS).map((dtype, i) => [dtype, i]));

/**
 * Writes a safetensors file atomically (see `writeAtomically`): byte for byte what Python's `save_file` writes for the
 * same tensors, whatever order they come in. The library leaves several metadata keys in random order; here they are
 * sorted. Memory: one chunk. Throws `FormatError` for a tensor that is not what it says, leaving `path` as it was.
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  const sized = Array.from(tensors, (tensor) => sizeTensor(tensor, path));
  sized.sort((a, b) => DTYPE_ORDER.get(b.dtype)! - DTYPE_ORDER.get(a.dtype)! || a.nameBytes.compare(b.nameBytes));
  const header = encodeHeader(sized, metadata, path);
  await writeAtomically(path, async (file) => {
    await writeAll(file, header);
    for (const tensor of sized) await writeTensor(file, tensor, path);
  });
}

/** Checks what the header will say of a tensor. Throws `FormatError`. */
export function sizeTensor(tensor: TensorToWrite, path: string): SizedTensor {
  const { name, dtype, shape } = tensor;
  const fail = (part: string, found: string, expected: string): never => {
    throw new FormatError({ file: path, field: `tensor ${show(name)}${part}`, found, expected });
  };
  if (name === "__metadata__") return fail("", "the reserved name", "another name");
  if (/\p{Surrogate}/u.test(name)) return fail("", "a lone surrogate in the name", "a name that UTF-8 can hold");
  if (!isSafetensorsDtype(dtype))
    return fail(" dtype", show(dtype), `one of ${Object.keys(SAFETENSORS_DTYPE_BITS).join(", ")}`);
  const byteLength = safetensorsByteLength(dtype, shape);
  if (byteLength === undefined)
    return fail(" shape", show(shape), "non-negative integers, fewer than 2^53 bits in all");
  return { ...tensor, byteLength, nameBytes: Buffer.from(name) };
}

export function duplicateName(path: string, name: string): FormatError {
  return new FormatError({
    file: path,
    field: `tensor ${show(name)}`,
    found: "the name twice",
    expected: "each name once",
  });
}

/** Length and header, padded with spaces so that the data starts at a multiple of 8, as the library does. */
function encodeHeader(
  sorted: readonly SizedTensor[],
  metadata: Readonly<Record<string, string>> | undefined,
  path: string,
): Uint8Array {
  const entries: string[] = [];
  if (metadata) {
    const pairs = Object.keys(metadata)
      .sort()
      .map((key) => `${JSON.stringify(key)}:${encodeMetadata(key, metadata[key], path)}`);
    entries.push(`"__metadata__":{${pairs.join(",")}}`);
  }
  const names = new Set<string>();
  let offset = 0;
  for (const { name, dtype, shape, byteLength } of sorted) {
    if (names.has(name)) throw duplicateName(path, name);
    names.add(name);
    const info = { dtype, shape, data_offsets: [offset, offset + byteLength] };
    entries.push(`${JSON.stringify(name)}:${JSON.stringify(info)}`);
    offset += byteLength;
  }
  const json = Buffer.from(`{${entries.join(",")}}`);
  const length = Math.ceil(json.length / 8) * 8;
  if (length > MAX_HEADER_BYTES)
    throw new FormatError({
      file: path,
      field: "header length",
      found: `${length} bytes for ${names.size} tensors`,
      expected: `at most ${MAX_HEADER_BYTES} bytes`,
    });
  const header = Buffer.alloc(8 + length, " ");
  header.writeBigUInt64LE(BigInt(length));
  json.copy(header, 8);
  return header;
}

function encodeMetadata(key: string, value: unknown, path: string): string {
  if (typeof value !== "string" || /\p{Surrogate}/u.test(key + value))
    throw new FormatError({
      file: path,
      field: `__metadata__ ${show(key)}`,
      found: show(value),
      expected: "text, for key and value",
    });
  return JSON.stringify(value);
}

async function writeTensor(file: FileHandle, { name, data, byteLength }: SizedTensor, path: string): Promise<void> {
  const fail = (found: string): never => {
    throw new FormatError({
      file: path,
      field: `tensor ${show(name)} data`,
      found,
      expected: `${byteLength} bytes as Uint8Array`,
    });
  };
  let written = 0;
  for await (const chunk of data instanceof Uint8Array ? [data] : data) {
    if (!(chunk instanceof Uint8Array)) return fail(show(chunk));
    if (written + chunk.byteLength > byteLength) return fail(`at least ${written + chunk.byteLength} bytes`);
    await writeAll(file, chunk);
    written += chunk.byteLength;
  }
  if (written !== byteLength) return fail(`${written} bytes`);
}
