import assert from "node:assert/strict";
import { test } from "node:test";
import { Backoff, parseRetryAfter, withRetries } from "./backoff.ts";
import { cacheError, HubError } from "./errors.ts";
import { fails } from "./fake-hub.test.support.ts";
import { hubSettings } from "./settings.ts";

const policy = { ...hubSettings({}, {}).http, retries: 2, backoffMs: 40 };
const transient = new HubError("server-error", "down", { transient: true });

test("waits double, and end with the tries", async () => {
  const backoff = new Backoff(policy, undefined);
  const waits: number[] = [];
  for (let i = 0; i < 2; i++) {
    const started = performance.now();
    await backoff.wait(transient);
    waits.push(performance.now() - started);
  }
  assert.ok(waits[0]! >= 19 && waits[1]! >= 39, waits.join());
  await assert.rejects(backoff.wait(transient), fails("server-error", /^down \(tried 3 times\)$/));
  backoff.reset();
  await backoff.wait(transient);
});

test("what another try cannot help is not tried again", async () => {
  let tries = 0;
  const attempt = async () => {
    tries++;
    throw new HubError("gated", "no");
  };
  await assert.rejects(withRetries(policy, undefined, attempt), fails("gated", /^no$/));
  assert.equal(tries, 1);
});

test("an abort ends a wait", async () => {
  const abort = new AbortController();
  const waiting = new Backoff({ ...policy, backoffMs: 60_000, maxBackoffMs: 60_000 }, abort.signal).wait(transient);
  abort.abort();
  await assert.rejects(waiting, { name: "AbortError" });
});

test("Retry-After is seconds or a date", () => {
  assert.equal(parseRetryAfter("7"), 7000);
  assert.equal(parseRetryAfter("Wed, 21 Oct 2015 07:28:10 GMT", Date.parse("2015-10-21T07:28:00Z")), 10_000);
  assert.equal(parseRetryAfter("Wed, 21 Oct 2015 07:28:10 GMT"), 0);
  assert.equal(parseRetryAfter("soon"), undefined);
  assert.equal(parseRetryAfter(null), undefined);
});

test("errors of the cache's disk say what to do", () => {
  const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  assert.ok(fails("disk-full", /disk of the cache \/c is full.*HF_HUB_CACHE/)(cacheError(full, "/c")));
  const denied = Object.assign(new Error("EACCES: permission denied"), { code: "EACCES" });
  assert.ok(fails("cache-not-writable", /\/c cannot be written \(EACCES/)(cacheError(denied, "/c")));
  assert.equal(cacheError(transient, "/c"), transient);
});
