import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fails, temporaryFolder } from "./fake-hub.test.support.ts";
import { acquireLock } from "./lock.ts";

const QUICK = { staleAfterMs: 300, pollMs: 5 };
/** No process has it: beyond Linux's largest. */
const DEAD_PID = 2 ** 22 + 1;

let folder: string;
let path: string;
beforeEach(() => {
  folder = temporaryFolder();
  path = join(folder, "locks", "a.lock");
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test("holders take turns, and leave nothing behind", async () => {
  let inside = 0;
  let turns = 0;
  const work = async () => {
    const lock = await acquireLock(path, QUICK);
    assert.equal(++inside, 1);
    await sleep(20);
    await lock.assertHeld();
    inside--;
    turns++;
    await lock.release();
  };
  await Promise.all(Array.from({ length: 8 }, work));
  assert.equal(turns, 8);
  assert.deepEqual(readdirSync(join(folder, "locks")), []);
});

test("the lock of a process that has ended is taken at once", async () => {
  const lock = await acquireLock(path, QUICK);
  const state = JSON.parse(readFileSync(path, "utf8")) as { pid: number; token: string };
  writeFileSync(path, JSON.stringify({ ...state, pid: DEAD_PID, token: "gone" }));
  const started = performance.now();
  const next = await acquireLock(path, { staleAfterMs: 60_000, pollMs: 5 });
  assert.ok(performance.now() - started < 5000);
  await next.assertHeld();
  await lock.release();
  assert.ok(existsSync(path), "release took another's lock");
  await next.release();
  assert.ok(!existsSync(path));
});

test("the lock of another machine, or one cut while written, is taken when it shows no life", async () => {
  for (const content of [JSON.stringify({ token: "x", pid: process.pid, host: "elsewhere" }), "", '{"tok']) {
    const first = await acquireLock(path, QUICK);
    await first.release();
    writeFileSync(path, content);
    const started = performance.now();
    const lock = await acquireLock(path, QUICK);
    assert.ok(performance.now() - started >= 290, "taken from one that may live");
    await lock.release();
  }
});

test("a lock that shows life is not taken", async () => {
  const first = await acquireLock(path, QUICK);
  await first.release();
  writeFileSync(path, JSON.stringify({ token: "x", pid: process.pid, host: "elsewhere" }));
  const alive = setInterval(() => utimesSync(path, new Date(), new Date()), 50);
  const abort = new AbortController();
  const waiting = acquireLock(path, { ...QUICK, signal: abort.signal });
  await sleep(700);
  clearInterval(alive);
  abort.abort();
  await assert.rejects(waiting, { name: "AbortError" });
});

test("a holder keeps its lock by its heartbeat, and finds out when it has lost it", async () => {
  const lock = await acquireLock(path, QUICK);
  await sleep(500);
  await lock.assertHeld();
  writeFileSync(path, JSON.stringify({ token: "other", pid: process.pid, host: "elsewhere" }));
  await sleep(200);
  await assert.rejects(lock.assertHeld(), fails("lock-lost", /was taken by another process/));
  await lock.release();
  assert.ok(existsSync(path));
});
