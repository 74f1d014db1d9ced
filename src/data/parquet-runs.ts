/**
 * Parquet's hybrid of run-length encoding and bit packing: a varint header, then either (even) one value of `width` bits
 * in whole bytes, repeated header/2 times, or (odd) header/2 groups of 8 values, `width` bits each.
 * Throws if runs that `count` values are read from would give more, or end before.
 */
export function checkRuns(bytes: Uint8Array, width: number, count: number): void {
  countRuns(bytes, width, count, null);
}

/** As `checkRuns`; returns how many of the values are `wanted` (none if that is null). */
export function countRuns(bytes: Uint8Array, width: number, count: number, wanted: number | null): number {
  if (width > 32) throw new Error(`values of ${width} bits`);
  let found = 0;
  let at = 0;
  for (let seen = 0; seen < count; ) {
    let header = 0;
    for (let shift = 0; ; shift += 7) {
      if (at >= bytes.length || shift > 28) throw new Error(`runs of ${seen} values, not ${count}`);
      const byte = bytes[at++]!;
      header = (header | ((byte & 0x7f) << shift)) >>> 0;
      if (byte < 0x80) break;
    }
    const isPacked = (header & 1) === 1;
    const length = (header >>> 1) * (isPacked ? 8 : 1);
    // Groups are of 8, and some writers fill the last run up in other ways; what comes to much more is an error.
    if (length > count - seen + 4096) throw new Error(`a run of ${length} values, of ${count - seen} left`);
    const here = Math.min(length, count - seen);
    if (!isPacked) {
      let value = 0;
      for (let i = 0; i < Math.ceil(width / 8); i++) value |= (bytes[at++] ?? 0) << (8 * i);
      if (value === wanted) found += here;
    } else {
      if (wanted !== null) found += countPacked(bytes, 8 * at, width, here, wanted);
      at += (length * width) / 8;
    }
    seen += length;
  }
  return found;
}

function countPacked(bytes: Uint8Array, firstBit: number, width: number, count: number, wanted: number): number {
  let found = 0;
  for (let i = 0; i < count; i++) {
    let value = 0;
    for (let b = 0; b < width; b++) {
      const bit = firstBit + i * width + b;
      value |= (((bytes[bit >>> 3] ?? 0) >>> (bit & 7)) & 1) << b;
    }
    if (value === wanted) found++;
  }
  return found;
}
