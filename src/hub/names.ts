import { show } from "../formats/errors.ts";
import { HubError } from "./errors.ts";

export type RepoType = "model" | "dataset";

/** A repository of the hub. `id` is `name` or `organisation/name`, checked. */
export interface Repo {
  readonly type: RepoType;
  readonly id: string;
}

/** The rules of the hub, as huggingface_hub checks them: they also make the id safe as a folder's name. Throws HubError. */
export function parseRepo(type: RepoType, id: string): Repo {
  const parts = id.split("/");
  const wellFormed =
    id.length <= 96 &&
    parts.length <= 2 &&
    parts.every((part) => /^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$/.test(part)) &&
    !/--|\.\.|\.git$/.test(id);
  if (!wellFormed) {
    const message = `${type} id: found ${show(id)}; expected "organisation/name" or "name", of letters, digits, "-", "_" and ".", at most 96 characters`;
    throw new HubError("invalid-id", message);
  }
  return { type, id };
}

/** The folder of a repository in the cache: `models--organisation--name`. */
export function repoFolder({ type, id }: Repo): string {
  return [`${type}s`, ...id.split("/")].join("--");
}

/** The repository's page, below the endpoint. */
export function repoPath({ type, id }: Repo): string {
  return type === "model" ? id : `${type}s/${id}`;
}

export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}

/** A branch, tag, `refs/pr/1` or commit: also the path of a file below `refs/`. Throws HubError. */
export function checkRevision(revision: string): string {
  if (!isSafePath(revision) || revision.length > 255) {
    const message = `revision: found ${show(revision)}; expected a branch, a tag, "refs/pr/N" or a commit hash`;
    throw new HubError("invalid-option", message);
  }
  return revision;
}

/**
 * Whether a name from a server may be joined to a folder: relative, with forward slashes, nothing that leaves the folder
 * or names a device or stream on any system.
 */
export function isSafePath(path: string): boolean {
  if (path.length === 0 || path.length > 1024) return false;
  return path.split("/").every((part) => {
    if (part.length === 0 || part.length > 255 || part === "." || part === "..") return false;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for.
    if (/[\\\u0000-\u001f\u007f]/.test(part)) return false;
    if (process.platform !== "win32") return true;
    return !/[:<>"|?*]|[. ]$/.test(part) && !/^(con|prn|aux|nul|com\d|lpt\d)(\.|$)/i.test(part);
  });
}

/** Throws HubError unless `isSafePath`. `where` says who gave the name. */
export function checkFileName(name: unknown, where: string): string {
  if (typeof name === "string" && isSafePath(name)) return name;
  const message = `${where}: found the file name ${show(name)}; expected a relative path inside the repository. Nothing was written`;
  throw new HubError("unsafe-name", message);
}
