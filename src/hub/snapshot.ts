import { reason } from "../formats/errors.ts";
import { withRetries } from "./backoff.ts";
import { RepoCache } from "./cache.ts";
import { cachedSnapshot, readSmall, type Snapshot } from "./cached-snapshot.ts";
import { cacheError, HubError, systemCode } from "./errors.ts";
import { fetchFiles } from "./fetch-files.ts";
import { fetchListing, type Listing } from "./listing.ts";
import { isCommit, type Repo } from "./names.ts";
import type { HubProgress } from "./progress.ts";
import type { Select } from "./select.ts";
import type { HubSettings } from "./settings.ts";
import { readTree, type TreeEntry, writeTree } from "./tree-cache.ts";

export interface SnapshotRequest {
  readonly repo: Repo;
  /** Checked: a branch, tag, pull request or commit. */
  readonly revision: string;
  readonly select: Select;
  readonly onProgress?: ((progress: HubProgress) => void) | undefined;
}

/**
 * The selected files of a repository at a revision, in the cache; downloaded if they are not. A branch or tag is looked
 * up at the hub each time. Without the hub, a complete snapshot of the cache is used: silently if offline was asked for,
 * with a process warning (`HubWarning`) if the hub did not answer. Throws HubError, or FormatError for a malformed index.
 */
export async function getSnapshot(request: SnapshotRequest, settings: HubSettings): Promise<Snapshot> {
  const { repo, revision, select } = request;
  const cache = new RepoCache(settings.cacheDir, repo, settings.symlinks);
  const cached = await cachedSnapshot(cache, repo, revision, select);
  const { snapshot } = cached;
  if (settings.offline) {
    if (snapshot) return snapshot;
    throw notCached(repo, revision, cached.why, settings);
  }
  // A commit does not change: what its listing says is complete needs no asking.
  if (snapshot && isCommit(revision) && cached.certain) return snapshot;
  let listing: Listing;
  try {
    // With the cache to fall back on, a dead network should not hold up the work.
    const http = snapshot ? { ...settings.http, retries: 0 } : settings.http;
    listing = await withRetries(http, settings.signal, () => fetchListing(repo, revision, settings));
  } catch (error) {
    if (!snapshot || !mayFallBack(error)) throw error;
    const message = `${repo.type} ${repo.id}: using the copy in the cache, as the hub could not be asked: ${reason(error)}`;
    process.emitWarning(message, "HubWarning");
    return snapshot;
  }
  try {
    return await download(cache, request, listing, settings);
  } catch (error) {
    throw cacheError(error, settings.cacheDir);
  }
}

async function download(
  cache: RepoCache,
  { repo, revision, select, onProgress }: SnapshotRequest,
  { commit, files }: Listing,
  settings: HubSettings,
): Promise<Snapshot> {
  if (isCommit(revision) && commit !== revision) {
    throw new HubError("bad-response", `${repo.id}: found the commit ${commit}; expected ${revision}, as asked for`);
  }
  // First, so that after a kill an offline run can tell that files are missing.
  await tolerateReadOnly(() => writeListing(cache, commit, files));
  const fetchMissing = async (names: readonly string[]): Promise<void> => {
    const missing: string[] = [];
    for (const name of new Set(names)) {
      if (!(await cache.has(commit, name, files.get(name)?.size))) missing.push(name);
    }
    await fetchFiles({ repo, commit, cache, onProgress }, missing, settings);
  };
  const read = async (name: string): Promise<Uint8Array> => {
    await fetchMissing([name]);
    return readSmall(cache.file(commit, name));
  };
  const selected = await select({ repo: `${repo.type} ${repo.id}`, names: [...files.keys()], read });
  await fetchMissing(selected);
  // Last, so that until now the branch stood for the snapshot that was complete.
  await tolerateReadOnly(() => cache.writeRef(revision, commit));
  return { folder: cache.snapshot(commit), commit, files: selected };
}

async function writeListing(cache: RepoCache, commit: string, files: Listing["files"]): Promise<void> {
  const tree = new Map<string, TreeEntry>();
  for (const [name, entry] of files) {
    if (entry === null) return;
    tree.set(name, entry);
  }
  if (!(await readTree(cache.storage, commit))) await writeTree(cache.storage, commit, tree);
}

/** A cache that holds all there is to download may be on a read-only disk. (If something is missing, that will fail.) */
async function tolerateReadOnly(write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    if (!/^(EROFS|EACCES|EPERM)$/.test(systemCode(error) ?? "")) throw error;
  }
}

/** Not when the hub did answer, and the answer is that the cache is out of date or the hub not to be trusted. */
function mayFallBack(error: unknown): boolean {
  return error instanceof HubError && error.code !== "revision-not-found" && error.code !== "unsafe-name";
}

function notCached(repo: Repo, revision: string, why: string, { cacheDir }: HubSettings): HubError {
  const message = `${repo.type} ${repo.id} (revision ${revision}) is not in the cache ${cacheDir}, and offline mode is on: ${why}. Run once without HF_HUB_OFFLINE (or the option offline), copy the cache of a machine that has it, set HF_HUB_CACHE to it, or give the path of a local folder`;
  return new HubError("not-cached", message);
}
