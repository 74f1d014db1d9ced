import type { ByteRange } from "./byte-file.ts";
import { FormatError, show } from "./errors.ts";
import {
  isSafetensorsDtype,
  SAFETENSORS_DTYPE_BITS,
  type SafetensorsDtype,
  safetensorsByteLength,
} from "./safetensors-dtype.ts";
import { isJsonObject, parseJsonObject } from "./strict-json.ts";

/** The library's own limit. Bytes. */
export const MAX_HEADER_BYTES = 100_000_000;

export interface SafetensorsInfo extends ByteRange {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  /** Row-major. */
  readonly shape: readonly number[];
}

export interface SafetensorsHeader {
  /** In the order of their bytes in the file. */
  readonly tensors: ReadonlyMap<string, SafetensorsInfo>;
  /** `__metadata__`; empty if the file has none. */
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * The header length of a file of `fileSize` bytes from its first 8 bytes (u64, little endian), checked against both the
 * file and the limit before anything is allocated.
 */
export function parseHeaderLength(first8: Uint8Array, file: string, fileSize: number): number {
  const length = new DataView(first8.buffer, first8.byteOffset, 8).getBigUint64(0, true);
  const available = Math.min(MAX_HEADER_BYTES, fileSize - 8);
  if (length > BigInt(available))
    throw new FormatError({
      file,
      field: "header length",
      found: `${length} bytes`,
      expected: `at most ${available} bytes (the file has ${fileSize}; a header is limited to ${MAX_HEADER_BYTES})`,
    });
  return Number(length);
}

/**
 * Parses and validates a safetensors header (https://github.com/huggingface/safetensors#format): every tensor has a
 * known dtype and exactly the bytes its shape needs, and together they cover the `dataBytes` after the header once each.
 * Throws `FormatError`.
 */
export function parseHeader(header: Uint8Array, file: string, dataBytes: number): SafetensorsHeader {
  const entries = parseJsonObject(header, file, "header");
  const metadata = parseMetadata(entries.__metadata__, file);
  const dataStart = 8 + header.length;
  const infos: SafetensorsInfo[] = [];
  for (const [name, entry] of Object.entries(entries)) {
    if (name !== "__metadata__") infos.push(parseEntry(name, entry, file, dataStart));
  }
  infos.sort((a, b) => a.start - b.start || a.byteLength - b.byteLength);
  checkCoverage(infos, file, dataStart, dataBytes);
  return { tensors: new Map(infos.map((info) => [info.name, info])), metadata };
}

function parseMetadata(value: unknown, file: string): Map<string, string> {
  const metadata = new Map<string, string>();
  if (value === undefined) return metadata;
  if (!isJsonObject(value))
    throw new FormatError({ file, field: "__metadata__", found: show(value), expected: "an object of strings" });
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== "string")
      throw new FormatError({ file, field: `__metadata__ ${show(key)}`, found: show(text), expected: "a string" });
    metadata.set(key, text);
  }
  return metadata;
}

function parseEntry(name: string, entry: unknown, file: string, dataStart: number): SafetensorsInfo {
  const fail = (part: string, found: string, expected: string): never => {
    throw new FormatError({ file, field: `tensor ${show(name)}${part}`, found, expected });
  };
  if (!isJsonObject(entry)) return fail("", show(entry), "an object with dtype, shape and data_offsets");
  const { dtype, shape, data_offsets: offsets } = entry;
  if (!isSafetensorsDtype(dtype))
    return fail(" dtype", show(dtype), `one of ${Object.keys(SAFETENSORS_DTYPE_BITS).join(", ")}`);
  if (!Array.isArray(shape)) return fail(" shape", show(shape), "an array of non-negative integers");
  const byteLength = safetensorsByteLength(dtype, shape);
  if (byteLength === undefined)
    return fail(
      " shape",
      show(shape),
      `non-negative integers, whose ${dtype} elements fill whole bytes, fewer than 2^53 bits`,
    );
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isOffset) || offsets[0] > offsets[1])
    return fail(" data_offsets", show(offsets), "[begin, end], integers with 0 <= begin <= end");
  const [begin, end]: number[] = offsets;
  if (end! - begin! !== byteLength)
    return fail(" data_offsets", `${end! - begin!} bytes`, `the ${byteLength} bytes of ${dtype} ${show(shape)}`);
  return { name, dtype, shape, start: dataStart + begin!, byteLength };
}

function isOffset(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** `infos` sorted by position must follow one another without gap or overlap from `dataStart` to the end of the file. */
function checkCoverage(infos: readonly SafetensorsInfo[], file: string, dataStart: number, dataBytes: number): void {
  let end = dataStart;
  let previous = "the header";
  for (const { name, start, byteLength } of infos) {
    if (start !== end)
      throw new FormatError({
        file,
        field: `tensor ${show(name)} data_offsets`,
        found: `begin ${start - dataStart}, which ${start < end ? "overlaps" : "leaves a gap after"} ${previous}`,
        expected: `begin ${end - dataStart}`,
      });
    end += byteLength;
    previous = show(name);
  }
  if (end - dataStart !== dataBytes)
    throw new FormatError({
      file,
      field: "file length",
      found: `${dataBytes} bytes after the header${dataBytes < end - dataStart ? " (an incomplete download or copy?)" : ""}`,
      expected: `the ${end - dataStart} bytes that the header describes`,
    });
}
