import { randomBytes } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

const CHUNK_BYTES = 32 * 2 ** 20;

/**
 * Replaces `path` by `data`, or leaves it as it was: a reader, or a crash or power cut at any moment, sees the old file
 * or the whole new one. Text is written as UTF-8. A symbolic link at `path` is replaced, not followed.
 * Throws the file system's error, naming `path`; the temporary file is then removed.
 */
export function atomicWriteFile(path: string, data: Uint8Array | string): Promise<void> {
  return writeAtomically(path, (file) => writeAll(file, typeof data === "string" ? Buffer.from(data) : data));
}

/** As `atomicWriteFile`, with `write` producing the contents. What it throws is thrown on, and `path` left as it was. */
export async function writeAtomically(path: string, write: (file: FileHandle) => Promise<void>): Promise<void> {
  // rename() is atomic only within one file system, hence the same folder.
  const temporary = join(dirname(path), `.${basename(path).slice(0, 100)}.${randomBytes(6).toString("hex")}.tmp`);
  const file = await open(temporary, "wx");
  try {
    try {
      await write(file);
      // Before the rename: else a power cut may leave the new name on an empty file.
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw named(error, path);
  }
  await syncFolder(dirname(path));
}

/** A disk that is full says so without saying which file was being written. */
function named(error: unknown, path: string): unknown {
  const isSystems = error instanceof Error && typeof (error as NodeJS.ErrnoException).code === "string";
  if (isSystems && (error as NodeJS.ErrnoException).path === undefined) {
    error.message = `${path} cannot be written: ${error.message}`;
  }
  return error;
}

/** Appends all of `data` at the file's current position, however few bytes each call to the system takes. */
export async function writeAll(file: FileHandle, data: Uint8Array): Promise<void> {
  for (let done = 0; done < data.length; ) {
    const { bytesWritten } = await file.write(data.subarray(done, done + CHUNK_BYTES));
    done += bytesWritten;
  }
}

/** Makes renames and removals in a folder survive a power cut. Windows cannot open a folder, and does not need to. */
export async function syncFolder(folder: string): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
