import { createReadStream } from "node:fs";
import { createGunzip } from "node:zlib";
import { FormatError, reason } from "../formats/errors.ts";

const CHUNK_BYTES = 2 ** 20;

/** A file's bytes, a chunk at a time; those of a `.gz` file decompressed. Throws the file system's error. */
export async function* readChunks(path: string): AsyncGenerator<Buffer> {
  const file = createReadStream(path, { highWaterMark: CHUNK_BYTES });
  if (!path.endsWith(".gz")) {
    yield* file as AsyncIterable<Buffer>;
    return;
  }
  const gunzip = createGunzip({ chunkSize: CHUNK_BYTES });
  let fileError: Error | undefined;
  file.on("error", (error) => {
    fileError = error;
    gunzip.destroy(error);
  });
  try {
    yield* file.pipe(gunzip) as AsyncIterable<Buffer>;
  } catch (cause) {
    if (fileError !== undefined) throw fileError;
    throw new FormatError({ file: path, field: "contents", found: reason(cause), expected: "gzip data", cause });
  } finally {
    file.destroy();
    gunzip.destroy();
  }
}
