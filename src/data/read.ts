import { open } from "node:fs/promises";
import { readCsv } from "./csv.ts";
import type { DataFile } from "./files.ts";
import { type LocatedRow, readJsonArray, readJsonl } from "./jsonl.ts";
import type { LocatedStream } from "./origin.ts";
import { readParquet } from "./parquet.ts";

/** The rows of data files, one file after the other, read as they are asked for; each iteration starts over. */
export function readRows(files: readonly DataFile[]): LocatedStream {
  return {
    origin: { files },
    async *[Symbol.asyncIterator]() {
      for (const file of files) yield* readFile(file);
    },
  };
}

/** A `.json` file is one array, or else JSON Lines, as many data sets name them so. */
export async function isJsonLines({ path, format }: DataFile): Promise<boolean> {
  if (format !== "json") return format === "jsonl";
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4096), 0, 4096, 0);
    return /^\ufeff?\s*\{/.test(buffer.toString("utf8", 0, bytesRead));
  } finally {
    await file.close();
  }
}

async function* readFile(file: DataFile): AsyncGenerator<LocatedRow> {
  const { path, format } = file;
  switch (format) {
    case "csv":
      return yield* readCsv(path);
    case "tsv":
      return yield* readCsv(path, { delimiter: "\t" });
    case "parquet":
      return yield* readParquet(path);
    case "jsonl":
      return yield* readJsonl(path);
    case "json":
      if (await isJsonLines(file)) yield* readJsonl(path);
      else yield* await readJsonArray(path);
  }
}
