/**
 * GGUF files, versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): strict reading, with ranged
 * reads of tensors into the caller's memory.
 *
 * Not `@huggingface/gguf`: it checks no count, length, offset or type against the file, and on a truncated one it keeps
 * growing its buffer with zeros and parses those.
 */
import { ByteFile, type ByteRange } from "./byte-file.ts";
import { FormatError, show } from "./errors.ts";
import { GGML_TYPES, type GgmlType, ggmlTypeOf } from "./ggml-types.ts";
import { GgufCursor } from "./gguf-cursor.ts";
import { type GgufValue, parseMetadata } from "./gguf-metadata.ts";
import { TensorFile } from "./tensor-file.ts";

export type { GgmlType } from "./ggml-types.ts";
export type { GgufArray, GgufValue, GgufValueType } from "./gguf-metadata.ts";

export interface GgufTensorInfo extends ByteRange {
  readonly name: string;
  readonly type: GgmlType;
  /** Row-major, as in safetensors: the reverse of the order in the file. At most 4 sizes; blocks run along the last. */
  readonly shape: readonly number[];
}

interface GgufHeader {
  readonly version: number;
  readonly alignment: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
}

/** One GGUF file, validated. Only the header is held in memory. */
export class GgufFile extends TensorFile<GgufTensorInfo> {
  readonly version: number;
  /** Tensors start at multiples of this. Bytes. */
  readonly alignment: number;
  /** In the order of the file. */
  readonly metadata: ReadonlyMap<string, GgufValue>;

  constructor(file: ByteFile, header: GgufHeader) {
    super(file, header.tensors);
    this.version = header.version;
    this.alignment = header.alignment;
    this.metadata = header.metadata;
  }
}

/** Opens and validates one GGUF file. Throws `FormatError`, with nothing left open. */
export function openGguf(path: string): GgufFile {
  const file = new ByteFile(path);
  try {
    return new GgufFile(file, parseHeader(file));
  } catch (error) {
    file.close();
    throw error;
  }
}

const MAGIC = 0x46554747; // "GGUF", read as a little-endian u32
const DEFAULT_ALIGNMENT = 32;
const MAX_ALIGNMENT = 2 ** 20;
const MAX_TENSORS = 2 ** 18;
const MAX_NAME_BYTES = 65535;
const MAX_DIMENSIONS = 4;

function parseHeader(file: ByteFile): GgufHeader {
  const cursor = new GgufCursor(file);
  cursor.field = "magic";
  const magic = cursor.u32();
  if (magic !== MAGIC) cursor.fail(`0x${magic.toString(16).padStart(8, "0")}`, "the bytes GGUF");
  cursor.field = "version";
  const version = cursor.u32();
  if (version !== 0 && (version & 0xffff) === 0)
    cursor.fail("a big-endian file", "a little-endian one: convert it again");
  if (version !== 2 && version !== 3) cursor.fail(`version ${version}`, "version 2 or 3: convert the model again");
  cursor.field = "tensor count";
  const tensorCount = cursor.size(MAX_TENSORS, `at most ${MAX_TENSORS} tensors`);
  cursor.field = "metadata count";
  const metadata = parseMetadata(cursor, cursor.u64());
  const alignment = alignmentOf(metadata, cursor);
  const infos = new Map<string, GgufTensorInfo>();
  for (let i = 0; i < tensorCount; i++) {
    cursor.field = `tensor ${i} name`;
    const info = parseTensorInfo(cursor, alignment);
    if (infos.has(info.name)) cursor.fail("the name again", "every name once");
    infos.set(info.name, info);
  }
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  return { version, alignment, metadata, tensors: placeTensors(infos, dataStart, file) };
}

function alignmentOf(metadata: ReadonlyMap<string, GgufValue>, cursor: GgufCursor): number {
  const entry = metadata.get("general.alignment");
  if (!entry) return DEFAULT_ALIGNMENT;
  cursor.field = "metadata general.alignment";
  if (entry.type !== "uint32") return cursor.fail(`type ${entry.type}`, "type uint32");
  const { value } = entry;
  if (value === 0 || value > MAX_ALIGNMENT || (value & (value - 1)) !== 0)
    return cursor.fail(String(value), `a power of two, at most ${MAX_ALIGNMENT}`);
  return value;
}

/** One tensor's entry, its `start` still relative to the data. */
function parseTensorInfo(cursor: GgufCursor, alignment: number): GgufTensorInfo {
  const name = cursor.string();
  if (name === "" || name.length > MAX_NAME_BYTES) cursor.fail(show(name), `1 to ${MAX_NAME_BYTES} bytes`);
  const field = `tensor ${show(name)}`;
  cursor.field = `${field} dimensions`;
  const dimensions = cursor.u32();
  if (dimensions > MAX_DIMENSIONS) cursor.fail(String(dimensions), `at most ${MAX_DIMENSIONS}`);
  const shape: number[] = [];
  cursor.field = `${field} shape`;
  for (let i = 0; i < dimensions; i++) shape.unshift(cursor.size(Number.MAX_SAFE_INTEGER, "a size under 2^53"));
  cursor.field = `${field} type`;
  const id = cursor.u32();
  const type = ggmlTypeOf(id) ?? cursor.fail(`id ${id}`, `the id of one of ${Object.keys(GGML_TYPES).join(", ")}`);
  const { blockSize, blockBytes } = GGML_TYPES[type];
  cursor.field = `${field} shape`;
  const rowLength = shape.at(-1) ?? 1;
  if (rowLength % blockSize !== 0) cursor.fail(show(shape), `rows of a multiple of ${blockSize} elements, for ${type}`);
  let byteLength = (rowLength / blockSize) * blockBytes;
  for (const size of shape.slice(0, -1)) byteLength *= size;
  if (byteLength > Number.MAX_SAFE_INTEGER) cursor.fail(show(shape), "fewer than 2^53 bytes");
  cursor.field = `${field} offset`;
  const start = cursor.size(Number.MAX_SAFE_INTEGER, "an offset within the file");
  if (start % alignment !== 0) cursor.fail(String(start), `a multiple of the alignment, ${alignment}`);
  return { name, type, shape, start, byteLength };
}

/** Makes positions absolute, and checks that all tensors lie in the file and none in another. */
function placeTensors(
  infos: ReadonlyMap<string, GgufTensorInfo>,
  dataStart: number,
  file: ByteFile,
): Map<string, GgufTensorInfo> {
  const sorted = Array.from(infos.values(), (info) => ({ ...info, start: dataStart + info.start }));
  sorted.sort((a, b) => a.start - b.start || a.byteLength - b.byteLength);
  let end = dataStart;
  let previous = "";
  for (const { name, start, byteLength } of sorted) {
    const fail = (found: string, expected: string) => {
      throw new FormatError({ file: file.path, field: `tensor ${show(name)}`, found, expected });
    };
    const range = `bytes ${start} to ${start + byteLength}`;
    if (start + byteLength > file.size) fail(range, `bytes within the file's ${file.size} (cut short?)`);
    if (start < end) fail(`${range}, which overlap tensor ${previous}`, `a start at byte ${end} or later`);
    end = start + byteLength;
    previous = show(name);
  }
  return new Map(sorted.map((info) => [info.name, info]));
}
