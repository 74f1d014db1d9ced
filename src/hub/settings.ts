import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { HubError, systemCode } from "./errors.ts";

/** Timeouts and retries. Every wait is bounded by them. */
export interface HttpPolicy {
  /** Longest wait for the head of an answer, ms. Default HF_HUB_ETAG_TIMEOUT (seconds), else 10 s. */
  readonly headTimeoutMs: number;
  /** Longest wait for the next bytes of a body, ms. Default HF_HUB_DOWNLOAD_TIMEOUT (seconds), else 30 s. */
  readonly idleTimeoutMs: number;
  /** Times a failed request is tried again. A download that advances by 1 MiB or more starts counting afresh. */
  readonly retries: number;
  /** First wait between tries, ms; doubled each time, with jitter. */
  readonly backoffMs: number;
  readonly maxBackoffMs: number;
  /** A server that asks (Retry-After) for a longer wait than this is an error at once, ms. */
  readonly maxRetryAfterMs: number;
}

/** What every function of the hub takes. Where left out, Hugging Face's environment variables hold. */
export interface HubOptions {
  /** The hub's address. Default HF_ENDPOINT, else https://huggingface.co. */
  readonly endpoint?: string | undefined;
  /** Access token; null: none. Default HF_TOKEN, else the file that `hf auth login` writes. */
  readonly token?: string | null | undefined;
  /** Default HF_HUB_CACHE, else HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub. */
  readonly cacheDir?: string | undefined;
  /** Use the cache only, contact nothing. Default HF_HUB_OFFLINE. */
  readonly offline?: boolean | undefined;
  readonly http?: Partial<HttpPolicy> | undefined;
  /** Stops the work; what was downloaded is kept and continued next time. */
  readonly signal?: AbortSignal | undefined;
}

export interface HubSettings {
  /** Without a slash at its end. */
  readonly endpoint: string;
  readonly token: string | undefined;
  readonly cacheDir: string;
  readonly offline: boolean;
  /** False: snapshots hold files, not links (HF_HUB_DISABLE_SYMLINKS). */
  readonly symlinks: boolean;
  readonly http: HttpPolicy;
  readonly signal: AbortSignal | undefined;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** The options with Hugging Face's environment variables for what they leave out. Throws HubError. */
export function hubSettings(options: HubOptions = {}, env: Environment = process.env): HubSettings {
  const home = hubHome(env);
  const cacheDir = options.cacheDir || env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(home, "hub");
  return {
    endpoint: checkEndpoint(options.endpoint || env.HF_ENDPOINT || "https://huggingface.co"),
    token: options.token === null ? undefined : checkToken(options.token ?? implicitToken(home, env)),
    cacheDir: resolve(expandHome(cacheDir, env)),
    offline: options.offline ?? isTrue(env.HF_HUB_OFFLINE || env.TRANSFORMERS_OFFLINE),
    symlinks: !isTrue(env.HF_HUB_DISABLE_SYMLINKS),
    http: {
      headTimeoutMs: seconds(env, "HF_HUB_ETAG_TIMEOUT", 10),
      idleTimeoutMs: seconds(env, "HF_HUB_DOWNLOAD_TIMEOUT", 30),
      retries: 5,
      backoffMs: 500,
      maxBackoffMs: 30_000,
      maxRetryAfterMs: 300_000,
      ...options.http,
    },
    signal: options.signal,
  };
}

function hubHome(env: Environment): string {
  const home = env.HF_HOME || join(env.XDG_CACHE_HOME || join("~", ".cache"), "huggingface");
  return resolve(expandHome(home, env));
}

function expandHome(path: string, env: Environment): string {
  return path === "~" || /^~[/\\]/.test(path) ? join(env.HOME || homedir(), path.slice(1)) : path;
}

function isTrue(value: string | undefined): boolean {
  return /^(1|on|yes|true)$/i.test(value ?? "");
}

function seconds(env: Environment, name: string, fallback: number): number {
  const value = Number(env[name]);
  return (value > 0 && value < 86_400 ? value : fallback) * 1000;
}

function checkEndpoint(endpoint: string): string {
  const url = URL.canParse(endpoint) ? new URL(endpoint) : null;
  if (!url || !/^https?:$/.test(url.protocol) || url.username !== "" || url.search !== "" || url.hash !== "") {
    const shown = endpoint.replace(/\/\/[^/@]*@/, "//…@");
    const message = `endpoint (HF_ENDPOINT): found ${JSON.stringify(shown)}; expected an address such as https://huggingface.co`;
    throw new HubError("invalid-option", message);
  }
  return url.href.replace(/\/+$/, "");
}

function implicitToken(home: string, env: Environment): string | undefined {
  if (isTrue(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return undefined;
  const fromEnvironment = env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN;
  if (fromEnvironment) return fromEnvironment;
  const file = env.HF_TOKEN_PATH ? expandHome(env.HF_TOKEN_PATH, env) : join(home, "token");
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const code = systemCode(error);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    const message = `the token file ${file} cannot be read (${code}). Make it readable, or set HF_TOKEN`;
    throw new HubError("invalid-option", message, { cause: error });
  }
}

function checkToken(token: string | undefined): string | undefined {
  const clean = token?.trim();
  if (!clean) return undefined;
  // Checked here because fetch would print a token it cannot send.
  if (!/^[\x21-\x7e]+$/.test(clean)) {
    const message =
      "token (HF_TOKEN): found characters that no access token has; expected one as on https://huggingface.co/settings/tokens";
    throw new HubError("invalid-option", message);
  }
  return clean;
}
