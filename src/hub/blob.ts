import { constants } from "node:fs";
import { type FileHandle, open, rename } from "node:fs/promises";
import { Backoff } from "./backoff.ts";
import { fileDigest } from "./digest.ts";
import { HubError } from "./errors.ts";
import { type HubResponse, send } from "./http.ts";
import type { FileLock } from "./lock.ts";
import type { HubSettings } from "./settings.ts";

/** A download that got so far further is not failing, however often it is cut. */
const PROGRESS_BYTES = 2 ** 20;
/** Contents that do not match their digest are fetched whole so many times. */
const MAX_CORRUPT = 3;

export interface BlobDownload {
  readonly url: string;
  /** sha256, or sha1 of the git blob. */
  readonly digest: string;
  /** Bytes, if known. */
  readonly size: number | undefined;
  /** Partial contents, continued if there are any. */
  readonly incomplete: string;
  /** Where the whole contents go, once checked. */
  readonly target: string;
  readonly lock: FileLock;
  /** Throws the HubError of a refusal (401, 403, 404 …); transient statuses too. */
  readonly checkAccess: (answer: HubResponse) => Promise<void>;
  /** Bytes there are of the file, after each piece. */
  readonly onBytes: (done: number) => void;
}

/**
 * Downloads a blob, continuing where an earlier try or run stopped, checks its digest and renames it into place. Killed
 * at any moment, it leaves `incomplete` (which the next run continues or replaces) or the whole `target`.
 * Throws HubError.
 */
export async function downloadBlob(blob: BlobDownload, settings: HubSettings): Promise<void> {
  const backoff = new Backoff(settings.http, settings.signal);
  for (let corrupt = 1; ; corrupt++) {
    const found = await completeAndCheck(blob, settings, backoff);
    if (found === blob.digest) {
      await rename(blob.incomplete, blob.target);
      return;
    }
    const message = `${blob.url}: found contents with the digest ${found}; expected ${blob.digest}. The server, or a proxy on the way, alters the file`;
    if (corrupt >= MAX_CORRUPT) throw new HubError("digest-mismatch", message);
    await backoff.wait(new HubError("digest-mismatch", message, { transient: true }));
  }
}

/** Returns the digest of the whole contents, which are emptied unless it is the right one. */
async function completeAndCheck(blob: BlobDownload, settings: HubSettings, backoff: Backoff): Promise<string> {
  // Not "a+": appending would ignore positions.
  const file = await open(blob.incomplete, constants.O_RDWR | constants.O_CREAT, 0o666);
  try {
    await complete(file, blob, settings, backoff);
    const found = await fileDigest(blob.incomplete, blob.digest, settings.signal);
    await blob.lock.assertHeld();
    // Synced before the rename: else a power cut may leave the name on missing contents.
    if (found === blob.digest) await file.sync();
    else await file.truncate(0);
    return found;
  } finally {
    await file.close();
  }
}

/** Brings the file to its whole length, in as many requests as it takes. */
async function complete(file: FileHandle, blob: BlobDownload, settings: HubSettings, backoff: Backoff): Promise<void> {
  for (;;) {
    let have = (await file.stat()).size;
    if (blob.size !== undefined && have > blob.size) {
      await file.truncate(0);
      have = 0;
    }
    blob.onBytes(have);
    if (have === blob.size) return;
    try {
      await transfer(file, have, blob, settings);
      return;
    } catch (error) {
      if ((await file.stat()).size - have >= PROGRESS_BYTES) backoff.reset();
      await backoff.wait(error);
    }
  }
}

/** One request, from byte `have` on. Throws a transient HubError if it is cut; what came is in the file. */
async function transfer(file: FileHandle, have: number, blob: BlobDownload, settings: HubSettings): Promise<void> {
  const headers: Record<string, string> = have > 0 ? { range: `bytes=${have}-` } : {};
  const answer = await send({ url: blob.url, method: "GET", headers }, settings);
  const { status } = answer.response;
  if (status !== 416) await blob.checkAccess(answer);
  let position = status === 206 ? rangeStart(answer) : 0;
  if (status === 416 || position === null || position > have || (status === 206 && isEncoded(answer))) {
    await answer.discard();
    await file.truncate(0);
    throw broken(blob, `a range that was not asked for (status ${status})`);
  }
  for await (const chunk of answer.body()) {
    // A server that sends more than was asked for (without Range, all of it) repeats what is there.
    const news = chunk.subarray(Math.min(chunk.length, Math.max(0, have - position)));
    const at = position + chunk.length - news.length;
    position += chunk.length;
    if (blob.size !== undefined && position > blob.size) {
      await file.truncate(0);
      throw broken(blob, `more than ${blob.size} bytes`);
    }
    if (news.length === 0) continue;
    await blob.lock.assertHeld();
    await writeAt(file, news, at);
    blob.onBytes(position);
  }
  if (blob.size !== undefined && position < blob.size) throw broken(blob, `the end after ${position} bytes`);
  if (position < have) {
    await file.truncate(0);
    throw broken(blob, `the end after ${position} bytes, though ${have} came before`);
  }
}

/** The first byte of a 206, or null. */
function rangeStart({ response }: HubResponse): number | null {
  const match = /^bytes (\d{1,15})-/.exec(response.headers.get("content-range") ?? "");
  return match ? Number(match[1]) : null;
}

function isEncoded({ response }: HubResponse): boolean {
  return (response.headers.get("content-encoding") ?? "identity") !== "identity";
}

function broken({ url, size }: BlobDownload, found: string): HubError {
  const expected = size === undefined ? "the file" : `its ${size} bytes`;
  return new HubError("server-error", `${url}: found ${found}; expected ${expected}`, { transient: true });
}

async function writeAt(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}
