import { type AsyncBuffer, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { ByteFile } from "../formats/byte-file.ts";
import { FormatError, reason } from "../formats/errors.ts";
import type { LocatedRow, Row } from "./jsonl.ts";
import { checkPages, checkRowGroups, columnRange, parquetLeaves } from "./parquet-check.ts";

/**
 * Reads a Parquet file one row group at a time (so a group has to fit in memory), in any of Parquet's compressions. Values
 * become JSON's: integers numbers (those beyond 2^53 strings), dates and times ISO 8601 strings; binary
 * columns stay bytes.
 * Throws `FormatError` naming the file.
 */
export async function* readParquet(path: string): AsyncGenerator<LocatedRow> {
  const bytes = new ByteFile(path);
  try {
    const file: AsyncBuffer = {
      byteLength: bytes.size,
      slice: async (start, end = bytes.size) => {
        const target = new Uint8Array(new ArrayBuffer(Math.max(0, end - start)));
        await bytes.read(target, start, "contents");
        return target.buffer;
      },
    };
    const metadata = await attempt(path, "metadata", () => parquetMetadataAsync(file));
    const groupRows = await attempt(path, "metadata", async () => checkRowGroups(metadata, path));
    const leaves = parquetLeaves(metadata);
    let index = 0;
    for (const [group, count] of groupRows.entries()) {
      const rows = await attempt(path, `row group ${group}`, async () => {
        for (const [i, { meta_data }] of metadata.row_groups[group]!.columns.entries()) {
          const { start, end } = columnRange(meta_data!);
          checkPages(await file.slice(start, end), meta_data!, leaves[i]!, path);
        }
        const range = { rowStart: index, rowEnd: index + count };
        return parquetReadObjects({ file, metadata, compressors, utf8: false, ...range });
      });
      if (rows.length !== count) {
        const found = `${rows.length} rows`;
        throw new FormatError({ file: path, field: `row group ${group}`, found, expected: `${count}` });
      }
      for (const row of rows) yield { row: plain(row) as Row, where: `${path}[${index++}]` };
    }
  } finally {
    bytes.close();
  }
}

async function attempt<T>(path: string, field: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    if (cause instanceof FormatError) throw cause;
    throw new FormatError({ file: path, field, found: reason(cause), expected: "a Parquet file", cause });
  }
}

function plain(value: unknown): unknown {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return value;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (Array.isArray(value)) return value.map(plain);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}
