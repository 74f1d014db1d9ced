import { setTimeout as sleep } from "node:timers/promises";
import { HubError } from "./errors.ts";
import type { HttpPolicy } from "./settings.ts";

/**
 * The waits between the tries of one request: `backoffMs`·2ⁿ with jitter, or what the server asked for if that is longer.
 */
export class Backoff {
  readonly #policy: HttpPolicy;
  readonly #signal: AbortSignal | undefined;
  #failures = 0;

  constructor(policy: HttpPolicy, signal: AbortSignal | undefined) {
    this.#policy = policy;
    this.#signal = signal;
  }

  /** Count afresh: the last try got somewhere. */
  reset(): void {
    this.#failures = 0;
  }

  /** Waits until the next try. Throws `error` if it is not worth one, or there were enough. */
  async wait(error: unknown): Promise<void> {
    if (!(error instanceof HubError) || !error.transient) throw error;
    const { retries, backoffMs, maxBackoffMs, maxRetryAfterMs } = this.#policy;
    if (this.#failures >= retries) throw exhausted(error, retries);
    const asked = error.retryAfterMs ?? 0;
    if (asked > maxRetryAfterMs) {
      const message = `${error.message}; the server asks to wait ${Math.ceil(asked / 1000)} s. Run again after that: what was downloaded is kept`;
      throw new HubError(error.code, message, { status: error.status, retryAfterMs: asked, cause: error });
    }
    // Jitter keeps the files that were cut together from coming back together.
    const own = Math.min(maxBackoffMs, backoffMs * 2 ** this.#failures) * (0.5 + Math.random() / 2);
    this.#failures++;
    await sleep(Math.max(own, asked), undefined, this.#signal ? { signal: this.#signal } : {});
  }
}

function exhausted(error: HubError, retries: number): HubError {
  const times = retries === 0 ? "" : ` (tried ${retries + 1} times)`;
  return new HubError(error.code, error.message + times, { status: error.status, cause: error });
}

/** Runs `attempt` until it succeeds, fails for good or has used up its tries. */
export async function withRetries<T>(
  policy: HttpPolicy,
  signal: AbortSignal | undefined,
  attempt: () => Promise<T>,
): Promise<T> {
  const backoff = new Backoff(policy, signal);
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      await backoff.wait(error);
    }
  }
}

/** `Retry-After` in ms: seconds or an HTTP date. Undefined if absent or neither. */
export function parseRetryAfter(value: string | null, now = Date.now()): number | undefined {
  if (value === null) return undefined;
  if (/^\s*\d{1,9}\s*$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}
