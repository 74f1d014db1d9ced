import { show } from "../formats/errors.ts";
import { checkAccess } from "./access.ts";
import { HubError } from "./errors.ts";
import { send } from "./http.ts";
import { type Repo, repoPath } from "./names.ts";
import type { HubSettings } from "./settings.ts";
import { isDigest } from "./tree-cache.ts";

/** What must be known of a file before it is downloaded. */
export interface FileMetadata {
  /** sha256 or git blob sha1, lower-case hex: the blob's name. */
  readonly digest: string;
  /** Bytes; undefined where the server does not say. */
  readonly size: number | undefined;
}

/** Where a file of a commit is downloaded from. */
export function resolveUrl(repo: Repo, commit: string, file: string, { endpoint }: HubSettings): string {
  return `${endpoint}/${repoPath(repo)}/resolve/${commit}/${file.split("/").map(encodeURIComponent).join("/")}`;
}

/**
 * One HEAD request. The hub's own headers (X-Linked-Etag, X-Linked-Size) describe a file kept elsewhere, so a redirect
 * that has them is not followed. Throws HubError.
 */
export async function fetchMetadata(
  repo: Repo,
  commit: string,
  file: string,
  settings: HubSettings,
): Promise<FileMetadata> {
  const url = resolveUrl(repo, commit, file, settings);
  const stopAt = (redirect: Response) => redirect.headers.has("x-linked-etag");
  const answer = await send({ url, method: "HEAD", stopAt }, settings);
  await checkAccess(answer, { repo, revision: commit, file }, settings);
  await answer.discard();
  const { headers, status } = answer.response;
  const servedCommit = headers.get("x-repo-commit");
  if (servedCommit !== null && servedCommit !== commit) {
    const message = `${url}: found X-Repo-Commit ${show(servedCommit)}; expected the commit that was asked for`;
    throw new HubError("bad-response", message);
  }
  const digest = normalizeEtag(headers.get("x-linked-etag") ?? headers.get("etag"));
  if (digest === null || !isDigest(digest)) {
    const message = `${url}: found ETag ${show(digest)}; expected the sha256 or sha1 that a Hugging Face hub gives, without which the file cannot be checked. Check HF_ENDPOINT, and proxies on the way`;
    throw new HubError("bad-response", message);
  }
  const isFile = status === 200 && !headers.has("content-encoding");
  return { digest, size: parseSize(headers.get("x-linked-size") ?? (isFile ? headers.get("content-length") : null)) };
}

/** `"abc"` and `W/"abc"` to abc. */
export function normalizeEtag(etag: string | null): string | null {
  return etag === null
    ? null
    : etag
        .trim()
        .replace(/^W\//, "")
        .replace(/^"(.*)"$/, "$1");
}

function parseSize(value: string | null): number | undefined {
  if (value === null || !/^\d+$/.test(value)) return undefined;
  const size = Number(value);
  return Number.isSafeInteger(size) ? size : undefined;
}
