/** Pieces of a GGUF file, for tests that need malformed ones. */

export const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};

export const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};

export const str = (text: string | Buffer): Buffer => {
  const bytes = Buffer.from(text);
  return Buffer.concat([u64(bytes.length), bytes]);
};

/** A key, the id of its type, and the bytes of its value. */
export const kv = (key: string, type: number, ...value: Buffer[]): Buffer =>
  Buffer.concat([str(key), u32(type), ...value]);

/** An array's element type, count and elements. */
export const array = (type: number, count: number | bigint, ...elements: Buffer[]): Buffer =>
  Buffer.concat([u32(type), u64(count), ...elements]);

/** A tensor's entry: `sizes` in the order of the file, innermost first. */
export const tensor = (name: string, sizes: (number | bigint)[], type: number, offset: number | bigint): Buffer =>
  Buffer.concat([str(name), u32(sizes.length), ...sizes.map(u64), u32(type), u64(offset)]);

export interface GgufParts {
  magic?: string;
  version?: number;
  kvs?: Buffer[];
  tensors?: Buffer[];
  kvCount?: number | bigint;
  tensorCount?: number | bigint;
  /** Bytes after the header, padded to the alignment. */
  data?: number;
  alignment?: number;
}

export function craftGguf(parts: GgufParts): Buffer {
  const { magic = "GGUF", version = 3, kvs = [], tensors = [], data = 0, alignment = 32 } = parts;
  const { kvCount = kvs.length, tensorCount = tensors.length } = parts;
  const header = Buffer.concat([Buffer.from(magic), u32(version), u64(tensorCount), u64(kvCount), ...kvs, ...tensors]);
  if (data === 0) return header;
  const padding = (alignment - (header.length % alignment)) % alignment;
  return Buffer.concat([header, Buffer.alloc(padding), Buffer.from(Array.from({ length: data }, (_, i) => i % 256))]);
}
