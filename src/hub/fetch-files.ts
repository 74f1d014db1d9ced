import { mkdir, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { checkAccess } from "./access.ts";
import { withRetries } from "./backoff.ts";
import { downloadBlob } from "./blob.ts";
import type { RepoCache } from "./cache.ts";
import { HubError } from "./errors.ts";
import { acquireLock } from "./lock.ts";
import { type FileMetadata, fetchMetadata, resolveUrl } from "./metadata.ts";
import type { Repo } from "./names.ts";
import { type HubProgress, ProgressMeter } from "./progress.ts";
import type { HubSettings } from "./settings.ts";

const PARALLEL = 4;
const MAX_LOCK_LOSSES = 3;

export interface Download {
  readonly repo: Repo;
  readonly commit: string;
  readonly cache: RepoCache;
  readonly onProgress: ((progress: HubProgress) => void) | undefined;
}

/**
 * Brings files that the snapshot lacks into it, four at a time. The first failure stops the others, whose partial
 * contents are kept. Throws HubError.
 */
export async function fetchFiles(download: Download, names: readonly string[], settings: HubSettings): Promise<void> {
  if (names.length === 0) return;
  const { repo, commit, cache, onProgress } = download;
  const metadata = new Map<string, FileMetadata>();
  await parallel(names, settings, async (name, own) => {
    metadata.set(name, await withRetries(own.http, own.signal, () => fetchMetadata(repo, commit, name, own)));
  });
  const meter = new ProgressMeter(metadata, onProgress);
  await checkSpace(cache, metadata, settings);
  await parallel(names, settings, (name, own) => fetchFile(download, name, metadata.get(name)!, meter, own));
}

/** The work on every name, some at a time, with settings whose signal stops it when another fails. */
async function parallel(
  names: readonly string[],
  settings: HubSettings,
  work: (name: string, settings: HubSettings) => Promise<void>,
): Promise<void> {
  const stop = new AbortController();
  const signal = settings.signal ? AbortSignal.any([settings.signal, stop.signal]) : stop.signal;
  const left = [...names];
  let failure: { error: unknown } | undefined;
  const worker = async () => {
    for (let name = left.shift(); name !== undefined && !failure; name = left.shift()) {
      try {
        await work(name, { ...settings, signal });
      } catch (error) {
        failure ??= { error };
        stop.abort();
      }
    }
  };
  // All are waited for: none may write on after the error was reported.
  await Promise.all(Array.from({ length: PARALLEL }, worker));
  if (failure) throw failure.error;
}

async function fetchFile(
  download: Download,
  name: string,
  file: FileMetadata,
  meter: ProgressMeter,
  settings: HubSettings,
): Promise<void> {
  for (let losses = 1; ; losses++) {
    try {
      return await fetchLocked(download, name, file, meter, settings);
    } catch (error) {
      // Whoever took the lock is downloading the same file: wait for that one.
      if (!(error instanceof HubError) || error.code !== "lock-lost" || losses >= MAX_LOCK_LOSSES) throw error;
    }
  }
}

async function fetchLocked(
  { repo, commit, cache }: Download,
  name: string,
  { digest, size }: FileMetadata,
  meter: ProgressMeter,
  settings: HubSettings,
): Promise<void> {
  const lock = await acquireLock(cache.lock(digest), { signal: settings.signal });
  try {
    if (!(await cache.has(commit, name, size))) {
      const fresh = !(await cache.hasBlob(digest, size));
      if (fresh) {
        const blob = {
          url: resolveUrl(repo, commit, name, settings),
          digest,
          size,
          incomplete: cache.incomplete(digest),
          target: cache.blob(digest),
          lock,
          checkAccess: (answer: Parameters<typeof checkAccess>[0]) =>
            checkAccess(answer, { repo, revision: commit, file: name }, settings),
          onBytes: (done: number) => meter.advance(name, done),
        };
        await mkdir(dirname(blob.target), { recursive: true });
        await downloadBlob(blob, settings);
      }
      await cache.link(digest, commit, name, fresh);
    }
    meter.finish(name);
  } finally {
    await lock.release();
  }
}

/** Fails before the first byte rather than after the last that fits. */
async function checkSpace(
  cache: RepoCache,
  files: ReadonlyMap<string, FileMetadata>,
  { cacheDir }: HubSettings,
): Promise<void> {
  await mkdir(cache.storage, { recursive: true });
  let needed = 0;
  for (const { digest, size } of new Map([...files.values()].map((file) => [file.digest, file])).values()) {
    if (size === undefined || (await cache.hasBlob(digest, size))) continue;
    needed +=
      size -
      (await stat(cache.incomplete(digest)).then(
        (found) => Math.min(found.size, size),
        () => 0,
      ));
  }
  const disk = await statfs(cache.storage).catch(() => null);
  // Some network file systems report nothing.
  if (disk === null || disk.blocks === 0) return;
  const free = disk.bavail * disk.bsize;
  if (needed <= free) return;
  const message = `the download needs ${gigabytes(needed)}, and the disk of the cache ${cacheDir} has ${gigabytes(free)} free. Free some space, or set HF_HUB_CACHE to a folder on a larger disk`;
  throw new HubError("disk-full", message);
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}
