/** What went wrong, for programs; the message is for people. */
export type HubErrorCode =
  | "invalid-id"
  | "invalid-option"
  | "unauthorized"
  | "gated"
  | "repo-not-found"
  | "revision-not-found"
  | "file-not-found"
  | "no-usable-files"
  | "not-cached"
  | "unreachable"
  | "rate-limited"
  | "server-error"
  | "bad-response"
  | "unsafe-name"
  | "digest-mismatch"
  | "disk-full"
  | "cache-not-writable"
  | "lock-lost";

export interface HubErrorDetails {
  /** HTTP status, where a server answered. */
  readonly status?: number | undefined;
  /** Trying again may help. */
  readonly transient?: boolean;
  /** How long the server asked us to wait. */
  readonly retryAfterMs?: number | undefined;
  readonly cause?: unknown;
}

/** A model or data set that cannot be had from the hub or its cache. Says what was found and what would work. */
export class HubError extends Error {
  override readonly name = "HubError";
  readonly code: HubErrorCode;
  readonly status: number | undefined;
  readonly transient: boolean;
  readonly retryAfterMs: number | undefined;

  constructor(code: HubErrorCode, message: string, details: HubErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.status = details.status;
    this.transient = details.transient ?? false;
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** The `code` of a system error (`ENOENT` …), also where fetch wrapped it. */
export function systemCode(error: unknown): string | undefined {
  for (let e = error, depth = 0; e instanceof Error && depth < 5; e = e.cause, depth++) {
    if ("code" in e && typeof e.code === "string") return e.code;
  }
  return undefined;
}

/** An error of the file system while writing to the cache, with the remedy; anything else as it was. */
export function cacheError(error: unknown, cacheDir: string): unknown {
  const code = error instanceof HubError ? undefined : systemCode(error);
  if (code === "ENOSPC" || code === "EDQUOT") {
    const message = `the disk of the cache ${cacheDir} is full; what was downloaded is kept. Free some space, or set HF_HUB_CACHE to a folder on a larger disk, and run again`;
    return new HubError("disk-full", message, { cause: error });
  }
  if (code === "EACCES" || code === "EPERM" || code === "EROFS") {
    const message = `the cache ${cacheDir} cannot be written (${(error as Error).message}). Make it writable, or set HF_HUB_CACHE (or the option cacheDir) to a folder that is`;
    return new HubError("cache-not-writable", message, { cause: error });
  }
  return error;
}
