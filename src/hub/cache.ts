import { constants } from "node:fs";
import { copyFile, lstat, mkdir, readdir, readFile, readlink, rename, rm, stat, symlink } from "node:fs/promises";
import { basename, dirname, join, relative, sep } from "node:path";
import { atomicWriteFile } from "../formats/atomic.ts";
import { systemCode } from "./errors.ts";
import { isCommit, isSafePath, type Repo, repoFolder } from "./names.ts";

/**
 * One repository in Hugging Face's cache:
 *
 *     <cache>/models--org--name/blobs/<digest>             contents
 *                               snapshots/<commit>/<file>  links to them
 *                               refs/<revision>            the commit a branch or tag was at
 *     <cache>/.locks/models--org--name/<digest>.…          locks
 *
 * A blob or snapshot file that exists is complete: both appear by rename or link. Names given to the methods must have
 * been checked. Throw the file system's errors.
 */
export class RepoCache {
  readonly storage: string;
  readonly #locks: string;
  readonly #symlinks: boolean;

  constructor(cacheDir: string, repo: Repo, symlinks: boolean) {
    this.storage = join(cacheDir, repoFolder(repo));
    this.#locks = join(cacheDir, ".locks", repoFolder(repo));
    this.#symlinks = symlinks;
  }

  snapshot(commit: string): string {
    return join(this.storage, "snapshots", commit);
  }

  file(commit: string, name: string): string {
    return join(this.snapshot(commit), ...name.split("/"));
  }

  blob(digest: string): string {
    return join(this.storage, "blobs", digest);
  }

  /** Apart from `<digest>.incomplete`, which huggingface_hub may be writing under a lock of its own. */
  incomplete(digest: string): string {
    return join(this.storage, "blobs", `${digest}.unsloth.incomplete`);
  }

  lock(digest: string): string {
    return join(this.#locks, `${digest}.unsloth.lock`);
  }

  /** The commit a branch or tag was last seen at; null if never, or if the file holds anything else. */
  async readRef(revision: string): Promise<string | null> {
    try {
      const commit = (await readFile(this.#ref(revision), "utf8")).trim();
      return isCommit(commit) ? commit : null;
    } catch {
      return null;
    }
  }

  async writeRef(revision: string, commit: string): Promise<void> {
    if (isCommit(revision) || (await this.readRef(revision)) === commit) return;
    await mkdir(dirname(this.#ref(revision)), { recursive: true });
    await atomicWriteFile(this.#ref(revision), commit);
  }

  /** Whether a snapshot has a file, of `size` bytes where that is known. */
  async has(commit: string, name: string, size?: number): Promise<boolean> {
    return isFileOf(this.file(commit, name), size);
  }

  async hasBlob(digest: string, size: number | undefined): Promise<boolean> {
    return isFileOf(this.blob(digest), size);
  }

  /** Every file of a snapshot, whoever put it there, sorted. */
  async list(commit: string): Promise<string[]> {
    const folder = this.snapshot(commit);
    const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
    const names: string[] = [];
    for (const entry of entries) {
      if (entry.isDirectory()) continue;
      const name = relative(folder, join(entry.parentPath, entry.name)).split(sep).join("/");
      if (isSafePath(name) && (await this.has(commit, name))) names.push(name);
    }
    return names.sort();
  }

  /**
   * Makes a blob appear in a snapshot, in place of what was there: as a relative link, so that the cache can be moved; or
   * where links cannot be made or are not wanted, as the file itself, moved if it is `fresh` (nothing links to it), else
   * copied. Call with the blob's lock held.
   */
  async link(digest: string, commit: string, name: string, fresh: boolean): Promise<void> {
    const path = this.file(commit, name);
    const blob = this.blob(digest);
    await mkdir(dirname(path), { recursive: true });
    if (this.#symlinks && (await isLinkTo(path, digest))) return;
    if (this.#symlinks) {
      await rm(path, { force: true });
      try {
        await symlink(relative(dirname(path), blob), path);
        return;
      } catch (error) {
        const code = systemCode(error) ?? "";
        if (code === "EEXIST" && (await isLinkTo(path, digest))) return;
        if (!/^(EPERM|EACCES|ENOSYS|ENOTSUP|EOPNOTSUPP|EINVAL)$/.test(code)) throw error;
      }
    }
    if (fresh) {
      await rename(blob, path);
      return;
    }
    // One name a blob, under its lock: a copy that was cut is overwritten by the next, not left behind.
    const copy = join(this.storage, "blobs", `${digest}.unsloth.copy`);
    await copyFile(blob, copy, constants.COPYFILE_FICLONE);
    await rename(copy, path);
  }

  #ref(revision: string): string {
    return join(this.storage, "refs", ...revision.split("/"));
  }
}

async function isFileOf(path: string, size: number | undefined): Promise<boolean> {
  try {
    const found = await stat(path);
    return found.isFile() && (size === undefined || found.size === size);
  } catch {
    return false;
  }
}

async function isLinkTo(path: string, digest: string): Promise<boolean> {
  try {
    return (await lstat(path)).isSymbolicLink() && basename(await readlink(path)) === digest;
  } catch {
    return false;
  }
}
