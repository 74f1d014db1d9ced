import { type AsyncBuffer, type FileMetaData, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { ByteFile } from "../formats/byte-file.ts";
import { FormatError, reason } from "../formats/errors.ts";
import type { LocatedRow, Row } from "./jsonl.ts";

/**
 * Reads a Parquet file one row group at a time (so a group has to fit in memory), in any of Parquet's compressions. Values
 * become JSON's: integers numbers (those beyond 2^53 strings), dates and times ISO 8601 strings; bytes stay bytes.
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
    let index = 0;
    for (const [group, { num_rows }] of groups(metadata, path).entries()) {
      const rows = await attempt(path, `row group ${group}`, () =>
        parquetReadObjects({ file, metadata, compressors, rowStart: index, rowEnd: index + num_rows }),
      );
      if (rows.length !== num_rows) {
        const found = `${rows.length} rows`;
        throw new FormatError({ file: path, field: `row group ${group}`, found, expected: `${num_rows}` });
      }
      for (const row of rows) yield { row: plain(row) as Row, where: `${path}[${index++}]` };
    }
  } finally {
    bytes.close();
  }
}

function groups(metadata: FileMetaData, path: string): { num_rows: number }[] {
  return metadata.row_groups.map(({ num_rows }, i) => {
    const count = Number(num_rows);
    // A typed array longer than this cannot be; a hostile file would ask for one.
    if (Number.isInteger(count) && count >= 0 && count < 2 ** 32) return { num_rows: count };
    const found = `${num_rows} rows`;
    throw new FormatError({ file: path, field: `row group ${i}`, found, expected: "a number of rows" });
  });
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
