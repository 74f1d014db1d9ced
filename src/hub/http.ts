import { parseRetryAfter } from "./backoff.ts";
import { HubError, systemCode } from "./errors.ts";
import type { HubSettings } from "./settings.ts";

const MAX_REDIRECTS = 10;
/** A name that does not exist, or a certificate that is not to be trusted. */
const PERMANENT_NETWORK_ERRORS = /^ENOTFOUND$|CERT|UNABLE_TO_VERIFY|^ERR_TLS/;

export interface HubRequest {
  readonly url: string;
  readonly method: "GET" | "HEAD";
  readonly headers?: Readonly<Record<string, string>>;
  /** Called with each redirect; true: its head is what was wanted, go no further. */
  readonly stopAt?: (redirect: Response) => boolean;
}

export interface HubResponse {
  readonly response: Response;
  /** Of the last request, without a query: it may hold a signature. */
  readonly url: string;
  /** The answer came from another origin than the endpoint (a CDN), to which no token was sent. */
  readonly elsewhere: boolean;
  /** The body, each wait for its next bytes bounded. Throws a transient HubError when cut. Leaving the loop closes it. */
  readonly body: () => AsyncGenerator<Uint8Array>;
  /** Drops the body. */
  readonly discard: () => Promise<void>;
}

/**
 * One request, redirects followed. The token goes to the endpoint's own origin only: never to the CDN, another port or
 * from https to http. Any status is returned; a network error or timeout is a transient HubError.
 */
export async function send(request: HubRequest, settings: HubSettings): Promise<HubResponse> {
  const home = new URL(settings.endpoint).origin;
  let url = new URL(request.url);
  for (let hop = 0; ; hop++) {
    const elsewhere = url.origin !== home;
    const watchdog = new Watchdog(settings.signal);
    const headers: Record<string, string> = {
      "user-agent": "unsloth-node",
      // Ranges and lengths are those of the file only if nobody compresses it.
      "accept-encoding": "identity",
      ...request.headers,
    };
    if (settings.token && !elsewhere) headers.authorization = `Bearer ${settings.token}`;
    watchdog.expect(settings.http.headTimeoutMs);
    let response: Response;
    try {
      response = await fetch(url, { method: request.method, headers, redirect: "manual", signal: watchdog.signal });
    } catch (error) {
      throw networkError(error, url, settings);
    } finally {
      watchdog.stop();
    }
    const target = redirectTarget(response, url);
    if (!target || request.stopAt?.(response)) return answer(response, url, elsewhere, watchdog, settings);
    await response.body?.cancel().catch(() => undefined);
    if (hop >= MAX_REDIRECTS) throw badResponse(url, `more than ${MAX_REDIRECTS} redirects`);
    if (url.protocol === "https:" && target.protocol === "http:") {
      throw badResponse(url, "a redirect from https to http");
    }
    url = target;
  }
}

function answer(
  response: Response,
  url: URL,
  elsewhere: boolean,
  watchdog: Watchdog,
  settings: HubSettings,
): HubResponse {
  async function* body(): AsyncGenerator<Uint8Array> {
    if (!response.body) return;
    try {
      watchdog.expect(settings.http.idleTimeoutMs);
      for await (const chunk of response.body) {
        watchdog.stop();
        yield chunk;
        watchdog.expect(settings.http.idleTimeoutMs);
      }
    } catch (error) {
      throw networkError(error, url, settings);
    } finally {
      watchdog.stop();
    }
  }
  // A connection that dies while its body is dropped is of no interest.
  const discard = async () => response.body?.cancel().catch(() => undefined);
  return { response, url: plain(url), elsewhere, body, discard };
}

function redirectTarget(response: Response, from: URL): URL | null {
  if (![301, 302, 303, 307, 308].includes(response.status)) return null;
  const location = response.headers.get("location") ?? "";
  if (!URL.canParse(location, from.href))
    throw badResponse(from, `a redirect to ${JSON.stringify(location.slice(0, 80))}`);
  const target = new URL(location, from);
  if (!/^https?:$/.test(target.protocol)) throw badResponse(from, `a redirect to ${target.protocol}`);
  return target;
}

/** Aborts a request that is silent for too long. */
class Watchdog {
  readonly signal: AbortSignal;
  readonly #controller = new AbortController();
  #timer: NodeJS.Timeout | undefined;

  constructor(outer: AbortSignal | undefined) {
    this.signal = outer ? AbortSignal.any([outer, this.#controller.signal]) : this.#controller.signal;
  }

  expect(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(new Silence(ms)), ms);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}

class Silence extends Error {
  constructor(ms: number) {
    super(`no answer for ${ms / 1000} s`);
  }
}

function networkError(error: unknown, url: URL, { signal }: HubSettings): unknown {
  if (error instanceof HubError) return error;
  if (signal?.aborted) return signal.reason;
  const code = systemCode(error);
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const detail = cause instanceof Error ? cause.message || code : String(cause);
  const proxy = process.env.HTTPS_PROXY || process.env.https_proxy || process.env.HTTP_PROXY || process.env.http_proxy;
  const hint = proxy
    ? "A proxy is set, which Node's fetch uses only with NODE_USE_ENV_PROXY=1 (Node 22.21 or 24 and later)"
    : "Check the network and HF_ENDPOINT; HF_HUB_OFFLINE=1 uses what is in the cache";
  const transient = !PERMANENT_NETWORK_ERRORS.test(code ?? "");
  return new HubError("unreachable", `${plain(url)}: ${detail}. ${hint}`, { transient, cause: error });
}

function badResponse(url: URL, found: string): HubError {
  return new HubError("bad-response", `${plain(url)}: found ${found}; expected a Hugging Face hub (HF_ENDPOINT)`);
}

function plain(url: URL): string {
  return url.origin + url.pathname;
}

/** What a status other than 2xx means, when it does not depend on what was asked for; else null. */
export function serverTrouble({ response, url, elsewhere }: HubResponse): HubError | null {
  const { status } = response;
  const retryAfterMs = parseRetryAfter(response.headers.get("retry-after"));
  const details = { status, transient: true, retryAfterMs };
  if (status === 429) {
    return new HubError(
      "rate-limited",
      `${url}: too many requests (429). A token (HF_TOKEN) raises the limit`,
      details,
    );
  }
  if (status === 408 || (status >= 500 && status !== 501 && status !== 505)) {
    return new HubError("server-error", `${url}: the server failed (${status})`, details);
  }
  // A signed address that has expired: asking the hub again gives a new one.
  if (elsewhere) return new HubError("server-error", `${url}: the CDN refused (${status})`, details);
  return null;
}
