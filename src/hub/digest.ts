import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";

/**
 * The digest of a file's contents by which the hub names it, of the kind of `like`: sha256 (64 hex digits) for large
 * files, else sha1 of git's blob, `"blob <bytes>\0"` and the contents. Throws the file system's error.
 */
export async function fileDigest(path: string, like: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash(like.length === 64 ? "sha256" : "sha1");
  if (like.length !== 64) hash.update(`blob ${(await stat(path)).size}\0`);
  const options = { highWaterMark: 2 ** 20, ...(signal && { signal }) };
  for await (const chunk of createReadStream(path, options)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
