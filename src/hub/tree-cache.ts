import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { atomicWriteFile } from "../formats/atomic.ts";
import { isJsonObject } from "../formats/strict-json.ts";
import { isSafePath } from "./names.ts";

const FORMAT_VERSION = 1;

/** One file of a commit. */
export interface TreeEntry {
  /** Bytes. */
  readonly size: number;
  /** sha256 (64 hex digits) of a large file, else the git blob's sha1 (40): also the blob's name in the cache. */
  readonly digest: string;
  /** sha1 of the git blob; of a large file, that of its pointer. */
  readonly blobId: string;
}

export function isDigest(text: string): boolean {
  return /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(text);
}

/**
 * The listing of a commit that huggingface_hub (2.x) keeps as `trees/<commit>.json`, so that either library can tell
 * offline whether a snapshot is complete. Null if there is none that can be used.
 */
export async function readTree(storage: string, commit: string): Promise<ReadonlyMap<string, TreeEntry> | null> {
  let json: unknown;
  try {
    json = JSON.parse(await readFile(treeFile(storage, commit), "utf8"));
  } catch {
    return null;
  }
  if (!isJsonObject(json) || json.format_version !== FORMAT_VERSION || !isJsonObject(json.files)) return null;
  const tree = new Map<string, TreeEntry>();
  for (const [name, entry] of Object.entries(json.files)) {
    if (!isSafePath(name) || !isJsonObject(entry)) return null;
    const { size, blob_id: blobId, lfs_sha256: sha256, lfs_size: lfsSize } = entry;
    const digest = sha256 ?? blobId;
    const bytes = lfsSize ?? size;
    if (typeof blobId !== "string" || typeof digest !== "string" || !isDigest(digest)) return null;
    if (!Number.isSafeInteger(bytes)) return null;
    tree.set(name, { size: bytes as number, digest, blobId });
  }
  return tree;
}

/** Throws the file system's error. */
export async function writeTree(storage: string, commit: string, tree: ReadonlyMap<string, TreeEntry>): Promise<void> {
  const sorted = [...tree].sort(([a], [b]) => (a < b ? -1 : 1));
  const files = Object.fromEntries(
    sorted.map(([name, { size, digest, blobId }]) => {
      const large = digest.length === 64 ? { lfs_sha256: digest, lfs_size: size } : {};
      return [name, { size, blob_id: blobId, ...large }];
    }),
  );
  await mkdir(join(storage, "trees"), { recursive: true });
  await atomicWriteFile(treeFile(storage, commit), JSON.stringify({ format_version: FORMAT_VERSION, files }, null, 1));
}

function treeFile(storage: string, commit: string): string {
  return join(storage, "trees", `${commit}.json`);
}
