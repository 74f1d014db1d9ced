import { existsSync } from "node:fs";
import { type FileHandle, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { syncFolder } from "../formats/atomic.ts";

/** A checkpoint that is being written; one that another replaces; one that is being deleted. */
const PARTIAL = ".partial-";
const REPLACED = ".replaced-";
const DELETED = ".deleted-";

const CHECKPOINT = /^checkpoint-(\d+)$/;

/** Folder of a step's checkpoint. */
export const checkpointFolder = (outputDir: string, step: number): string => join(outputDir, `checkpoint-${step}`);

/**
 * Fill a folder under another name and give it its own when it is whole and on the disk: a folder called checkpoint-N is
 * complete, whenever the process or the machine stopped.
 */
export async function writeWhole(folder: string, fill: (partial: string) => Promise<void>): Promise<void> {
  const [parent, name] = [dirname(folder), basename(folder)];
  const partial = join(parent, PARTIAL + name);
  await rm(partial, { recursive: true, force: true });
  try {
    await fill(partial);
    await syncTree(partial);
  } catch (error) {
    // On a full disk this is what makes room again.
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
  const replaced = join(parent, REPLACED + name);
  await rm(replaced, { recursive: true, force: true });
  // A folder that is not empty cannot be renamed over. Stopped between the two, `tidyCheckpoints` puts the old one back.
  if (existsSync(folder)) await rename(folder, replaced);
  await rename(partial, folder);
  await syncFolder(parent);
  await rm(replaced, { recursive: true, force: true });
}

/** Clear away what a process that was stopped left unfinished. */
export async function tidyCheckpoints(outputDir: string): Promise<void> {
  for (const name of await namesIn(outputDir)) {
    const path = join(outputDir, name);
    if (name.startsWith(REPLACED)) {
      const original = join(outputDir, name.slice(REPLACED.length));
      if (!existsSync(original)) await rename(path, original);
    }
    if ([PARTIAL, REPLACED, DELETED].some((prefix) => name.startsWith(prefix))) {
      await rm(path, { recursive: true, force: true });
    }
  }
}

/** The checkpoint with the highest step in a folder, or null: Hugging Face's get_last_checkpoint. */
export async function getLastCheckpoint(outputDir: string): Promise<string | null> {
  return (await checkpoints(outputDir)).at(-1)?.path ?? null;
}

/**
 * Delete the oldest checkpoints until `limit` are left. The newest and the best are kept, even if `limit` is 1. Oldest is
 * by time of writing, so that a run into the folder of an earlier one does not delete its own.
 */
export async function removeOldCheckpoints(
  outputDir: string,
  limit: number | null,
  best: string | null,
): Promise<void> {
  if (limit === null) return;
  const all = await checkpoints(outputDir);
  const times = all.map(({ time }) => time);
  // Within a second, or where the file system keeps no times, the step says which is older (as in transformers).
  if (Math.max(...times) - Math.min(...times) >= 1000) all.sort((a, b) => a.time - b.time);
  const kept = new Set([all.at(-1)?.path, ...all.filter(({ path }) => isSame(path, best)).map(({ path }) => path)]);
  const excess = all.length - Math.max(limit, kept.size);
  const old = all.filter(({ path }) => !kept.has(path)).slice(0, Math.max(0, excess));
  for (const { path } of old) await removeCheckpoint(path);
}

/** Delete all checkpoints but one. */
export async function keepOnly(outputDir: string, best: string): Promise<void> {
  for (const { path } of await checkpoints(outputDir)) if (!isSame(path, best)) await removeCheckpoint(path);
}

async function removeCheckpoint(path: string): Promise<void> {
  // Renamed first: stopped half way, what is left is no checkpoint any more.
  const going = join(dirname(path), DELETED + basename(path));
  await rm(going, { recursive: true, force: true });
  await rename(path, going);
  await rm(going, { recursive: true, force: true });
}

const isSame = (path: string, other: string | null): boolean => other !== null && resolve(path) === resolve(other);

/** Checkpoints by rising step. */
async function checkpoints(outputDir: string): Promise<{ path: string; step: number; time: number }[]> {
  const found: { path: string; step: number; time: number }[] = [];
  for (const name of await namesIn(outputDir)) {
    const step = CHECKPOINT.exec(name)?.[1];
    if (step === undefined) continue;
    const path = join(outputDir, name);
    const status = await stat(path);
    if (status.isDirectory()) found.push({ path, step: Number(step), time: status.mtimeMs });
  }
  return found.sort((a, b) => a.step - b.step);
}

async function namesIn(folder: string): Promise<string[]> {
  return existsSync(folder) ? await readdir(folder) : [];
}

/** Make a folder's files survive a power cut. */
async function syncTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else await withFile(path, (file) => file.sync());
  }
  await syncFolder(folder);
}

async function withFile(path: string, use: (file: FileHandle) => Promise<void>): Promise<void> {
  const file = await open(path, "r+");
  try {
    await use(file);
  } finally {
    await file.close();
  }
}
