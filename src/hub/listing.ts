import { reason, show } from "../formats/errors.ts";
import { isJsonObject } from "../formats/strict-json.ts";
import { checkAccess } from "./access.ts";
import { HubError } from "./errors.ts";
import { type HubResponse, send } from "./http.ts";
import { checkFileName, isCommit, type Repo } from "./names.ts";
import type { HubSettings } from "./settings.ts";
import { isDigest, type TreeEntry } from "./tree-cache.ts";

const MAX_LISTING_BYTES = 64 * 2 ** 20;

/** The files of a repository at one commit. */
export interface Listing {
  readonly commit: string;
  /** Every file by its path, with what is known of it: all is, or nothing of any (a server that does not tell). */
  readonly files: ReadonlyMap<string, TreeEntry | null>;
}

/** Asks the hub what a revision holds: one request, not retried here. Throws HubError. */
export async function fetchListing(repo: Repo, revision: string, settings: HubSettings): Promise<Listing> {
  const path = `api/${repo.type}s/${repo.id}/revision/${encodeURIComponent(revision)}`;
  const url = `${settings.endpoint}/${path}?blobs=true`;
  const answer = await send({ url, method: "GET", headers: { accept: "application/json" } }, settings);
  await checkAccess(answer, { repo, revision }, settings);
  const bytes = await readBody(answer, MAX_LISTING_BYTES);
  let json: unknown;
  try {
    json = JSON.parse(bytes.toString("utf8"));
  } catch (error) {
    throw notAListing(answer.url, `no JSON (${reason(error)})`);
  }
  return parseListing(json, answer.url);
}

/** Throws HubError naming the field at fault. */
export function parseListing(json: unknown, url: string): Listing {
  if (!isJsonObject(json)) throw notAListing(url, show(json));
  const { sha, siblings } = json;
  if (typeof sha !== "string" || !isCommit(sha)) throw notAListing(url, `sha: ${show(sha)}`);
  if (!Array.isArray(siblings)) throw notAListing(url, `siblings: ${show(siblings)}`);
  const files = new Map<string, TreeEntry | null>();
  for (const sibling of siblings) {
    if (!isJsonObject(sibling)) throw notAListing(url, `siblings: ${show(sibling)}`);
    files.set(checkFileName(sibling.rfilename, `listing of ${url}`), parseEntry(sibling));
  }
  const complete = [...files.values()].every((entry) => entry !== null);
  return { commit: sha, files: complete ? files : new Map([...files.keys()].map((name) => [name, null])) };
}

function parseEntry({ size, blobId, lfs }: Record<string, unknown>): TreeEntry | null {
  if (!isSize(size) || typeof blobId !== "string" || !/^[0-9a-f]{40}$/.test(blobId)) return null;
  if (lfs === undefined || lfs === null) return { size, digest: blobId, blobId };
  if (!isJsonObject(lfs) || typeof lfs.sha256 !== "string" || !isDigest(lfs.sha256) || !isSize(lfs.size)) return null;
  return { size: lfs.size, digest: lfs.sha256, blobId };
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

async function readBody(answer: HubResponse, limit: number): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of answer.body()) {
    length += chunk.length;
    if (length > limit) throw notAListing(answer.url, `more than ${limit} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function notAListing(url: string, found: string): HubError {
  const expected = 'the JSON listing of a Hugging Face hub, with "sha" and "siblings" (HF_ENDPOINT)';
  return new HubError("bad-response", `${url}: found ${found}; expected ${expected}`);
}
