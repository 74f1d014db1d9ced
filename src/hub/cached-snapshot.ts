import { readFile, stat } from "node:fs/promises";
import { FormatError } from "../formats/errors.ts";
import type { RepoCache } from "./cache.ts";
import { HubError } from "./errors.ts";
import { isCommit, type Repo } from "./names.ts";
import type { Select } from "./select.ts";
import { readTree } from "./tree-cache.ts";

const MAX_READ_BYTES = 100 * 2 ** 20;

export interface Snapshot {
  /** `<cache>/models--org--name/snapshots/<commit>`. */
  readonly folder: string;
  readonly commit: string;
  /** The files that were selected: all are there. */
  readonly files: readonly string[];
}

/** What the cache has of a revision. */
export interface Cached {
  /** Undefined if it lacks a file that is selected. */
  readonly snapshot?: Snapshot;
  /** The commit's listing says that no file is missing; without one, none that the others tell of is. */
  readonly certain: boolean;
  /** If there is no snapshot. */
  readonly why: string;
}

/** Looks into the cache only. Throws nothing but what `select` throws other than HubError and FormatError. */
export async function cachedSnapshot(cache: RepoCache, repo: Repo, revision: string, select: Select): Promise<Cached> {
  const commit = isCommit(revision) ? revision : await cache.readRef(revision);
  if (commit === null) return { certain: false, why: "the revision was never downloaded" };
  const tree = await readTree(cache.storage, commit);
  const names = tree ? [...tree.keys()] : await cache.list(commit);
  const certain = tree !== null;
  if (names.length === 0) return { certain, why: `there is no snapshot of commit ${commit}` };
  try {
    const read = (name: string) => readSmall(cache.file(commit, name));
    const files = await select({ repo: `${repo.type} ${repo.id}`, names, read });
    for (const name of files) {
      if (await cache.has(commit, name, tree?.get(name)?.size)) continue;
      return { certain, why: `${name} is missing from the snapshot (a download that was interrupted?)` };
    }
    return { snapshot: { folder: cache.snapshot(commit), commit, files }, certain, why: "" };
  } catch (error) {
    if (!(error instanceof HubError) && !(error instanceof FormatError)) throw error;
    return { certain, why: error.message };
  }
}

/** A file that is to be parsed as a whole. Throws HubError. */
export async function readSmall(path: string): Promise<Uint8Array> {
  const found = await stat(path).catch(() => null);
  if (found === null) throw new HubError("not-cached", `${path} is missing`);
  if (found.size <= MAX_READ_BYTES) return readFile(path);
  const message = `${path}: found ${found.size} bytes; expected an index of at most ${MAX_READ_BYTES}`;
  throw new HubError("bad-response", message);
}
