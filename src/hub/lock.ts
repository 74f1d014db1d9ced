import { randomUUID } from "node:crypto";
import { readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { link, mkdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { isJsonObject } from "../formats/strict-json.ts";
import { HubError, systemCode } from "./errors.ts";

/** Times in a row that a lock may vanish before we look at it. */
const MAX_MISSES = 1000;

export interface LockOptions {
  /** A holder on another machine that gave no sign of life for so long is taken for dead, ms. */
  readonly staleAfterMs?: number;
  readonly pollMs?: number;
  readonly signal?: AbortSignal | undefined;
}

export interface FileLock {
  /** Throws HubError `lock-lost` if this process was silent for so long that another may have taken the lock. */
  assertHeld(): Promise<void>;
  release(): Promise<void>;
}

interface Holder {
  readonly token: string;
  readonly pid: number;
  readonly host: string;
}

/**
 * Takes the lock file `path`, waiting while another holder lives. Works on every file system that can create a file
 * exclusively, also shared ones. The file tells who holds it and is touched while it is held. It is taken from a holder
 * whose process has ended (same machine), or whose file was not touched for `staleAfterMs` by our own clock.
 *
 * Not huggingface_hub's flock, which Node cannot take: the two do not exclude each other, so neither may write a file
 * that the other writes. Throws the file system's error.
 */
export async function acquireLock(path: string, options: LockOptions = {}): Promise<FileLock> {
  const { staleAfterMs = 30_000, pollMs = 100, signal } = options;
  await mkdir(dirname(path), { recursive: true });
  const me: Holder = { token: randomUUID(), pid: process.pid, host: thisHost() };
  let seen = "";
  let seenAt = 0;
  let misses = 0;
  for (;;) {
    signal?.throwIfAborted();
    try {
      // Synchronous, so that being killed between creating and filling the file is next to impossible.
      writeFileSync(path, JSON.stringify(me), { flag: "wx" });
      return new HeldLock(path, me.token, staleAfterMs);
    } catch (error) {
      if ((systemCode(error) !== "EEXIST" && !isBusy(error)) || ++misses > MAX_MISSES) throw error;
    }
    const state = await readState(path);
    if (state === null) continue;
    misses = 0;
    const now = performance.now();
    if (state.text !== seen) {
      seen = state.text;
      seenAt = now;
    }
    if (isDead(state.holder, me.host) || now - seenAt > staleAfterMs) await breakLock(path, state.content);
    else await sleep(pollMs, undefined, signal ? { signal } : {});
  }
}

class HeldLock implements FileLock {
  readonly #path: string;
  readonly #token: string;
  readonly #staleAfterMs: number;
  readonly #timer: NodeJS.Timeout;
  #lastBeat = Date.now();
  #lost = false;

  constructor(path: string, token: string, staleAfterMs: number) {
    this.#path = path;
    this.#token = token;
    this.#staleAfterMs = staleAfterMs;
    this.#timer = setInterval(() => void this.#beat(), staleAfterMs / 6).unref();
  }

  async assertHeld(): Promise<void> {
    if (Date.now() - this.#lastBeat > this.#staleAfterMs / 2) await this.#beat();
    if (this.#lost) throw new HubError("lock-lost", `the lock ${this.#path} was taken by another process`);
  }

  async release(): Promise<void> {
    clearInterval(this.#timer);
    if ((await readState(this.#path))?.holder?.token === this.#token) await rm(this.#path, { force: true });
  }

  async #beat(): Promise<void> {
    try {
      const state = await readState(this.#path);
      if (state?.holder?.token !== this.#token) {
        this.#lost = true;
        return;
      }
      const now = new Date();
      await utimes(this.#path, now, now);
      this.#lastBeat = now.getTime();
    } catch {
      // A file system that fails for a moment: the next beat, or assertHeld, tries again.
    }
  }
}

async function readState(path: string): Promise<{ content: string; holder: Holder | null; text: string } | null> {
  try {
    const content = await readFile(path, "utf8");
    const { mtimeMs } = await stat(path);
    return { content, holder: parseHolder(content), text: `${mtimeMs} ${content}` };
  } catch (error) {
    if (systemCode(error) === "ENOENT" || isBusy(error)) return null;
    throw error;
  }
}

function parseHolder(content: string): Holder | null {
  try {
    const json: unknown = JSON.parse(content);
    if (!isJsonObject(json)) return null;
    const { token, pid, host } = json;
    if (typeof token !== "string" || typeof host !== "string" || !Number.isSafeInteger(pid)) return null;
    return { token, pid: pid as number, host };
  } catch {
    return null;
  }
}

function isDead(holder: Holder | null, host: string): boolean {
  if (holder === null || holder.host !== host || holder.pid <= 0) return false;
  try {
    process.kill(holder.pid, 0);
    return false;
  } catch (error) {
    return systemCode(error) === "ESRCH";
  }
}

/**
 * Removes the lock that was found stale, and no other: of several that try, one renames it away; who renamed a newer
 * lock instead puts it back. (If that comes too late, its holder finds out by assertHeld.)
 */
async function breakLock(path: string, content: string): Promise<void> {
  const aside = `${path}.${randomUUID()}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (systemCode(error) === "ENOENT" || isBusy(error)) return;
    throw error;
  }
  if ((await readFile(aside, "utf8")) !== content) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
}

/** Windows, while another process opens or deletes the file. */
function isBusy(error: unknown): boolean {
  return process.platform === "win32" && /^(EPERM|EBUSY|EACCES)$/.test(systemCode(error) ?? "");
}

let host: string | undefined;

/** This machine, until it restarts, and where process ids mean the same: containers may share a host's name. */
function thisHost(): string {
  if (host === undefined) {
    host = hostname();
    if (process.platform === "linux") {
      try {
        host += ` ${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()} ${readlinkSync("/proc/self/ns/pid")}`;
      } catch {
        // Without /proc the name alone has to do.
      }
    }
  }
  return host;
}
