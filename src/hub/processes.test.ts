import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { extname, join } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { FAST, FakeHub, randomBytes, sha256, temporaryFolder, tinyModel } from "./fake-hub.test.support.ts";
import { resolveModel } from "./resolve.ts";

const ID = "org/tiny";
const WEIGHTS = randomBytes(400_000, 3);
const BLOB = /^GET cdn \/blobs\//;

let hub: FakeHub;
let cacheDir: string;
before(async () => {
  hub = await FakeHub.start();
});
after(() => hub.close());
beforeEach(() => {
  hub.requests.length = 0;
  hub.heal();
  hub.add(ID, { ...tinyModel(), "model.safetensors": WEIGHTS });
  cacheDir = temporaryFolder();
});
afterEach(() => rmSync(cacheDir, { recursive: true, force: true }));

const partial = (): string => join(cacheDir, "models--org--tiny", "blobs", `${sha256(WEIGHTS)}.unsloth.incomplete`);
const size = (path: string): number => (existsSync(path) ? statSync(path).size : 0);

function fetchInProcess(): ChildProcess {
  const script = fileURLToPath(new URL(`./fetch-model.test.support${extname(import.meta.url)}`, import.meta.url));
  return spawn(process.execPath, [...process.execArgv, script, hub.endpoint, cacheDir, ID], {
    stdio: ["ignore", "pipe", "inherit"],
  });
}

async function ended(child: ChildProcess): Promise<string> {
  let output = "";
  child.stdout!.on("data", (text) => (output += text));
  await new Promise((done) => child.once("close", done));
  return output;
}

async function until(condition: () => boolean): Promise<void> {
  for (let waited = 0; !condition(); waited += 5) {
    assert.ok(waited < 15_000, "nothing happened for 15 s");
    await sleep(5);
  }
}

function assertComplete(folder: string): void {
  assert.ok(readFileSync(join(folder, "model.safetensors")).equals(WEIGHTS));
  assert.equal(readFileSync(join(folder, "config.json"), "utf8"), '{"model_type":"llama"}');
  const blobs = readdirSync(join(cacheDir, "models--org--tiny", "blobs"));
  // A process killed between finishing a blob and giving its lock back leaves the lock, which nobody needs any more.
  const locks = readdirSync(join(cacheDir, ".locks", "models--org--tiny"));
  const needed = locks.filter((name) => !blobs.includes(name.replace(/\.unsloth\.lock$/, "")));
  assert.deepEqual(needed, []);
  assert.ok(!locks.some((name) => name.startsWith(sha256(WEIGHTS))));
  assert.ok(
    blobs.every((name) => /^[0-9a-f]+$/.test(name)),
    blobs.join(),
  );
}

test("after kills at one moment and another, the next run continues and completes", async () => {
  hub.faultAlways(BLOB, { kind: "slow", bytesPerMs: 200 });
  let kept = 0;
  for (const moment of [() => size(partial()) > 0, () => size(partial()) > kept + 50_000]) {
    const child = fetchInProcess();
    const closed = ended(child);
    await until(moment);
    child.kill("SIGKILL");
    await closed;
    const now = size(partial());
    assert.ok(now > kept && now < WEIGHTS.length, `${kept} bytes, then ${now}`);
    kept = now;
  }
  assert.ok(readdirSync(join(cacheDir, ".locks", "models--org--tiny")).length > 0);
  hub.heal();
  hub.requests.length = 0;
  const started = performance.now();
  const options = { endpoint: hub.endpoint, cacheDir, token: null, http: FAST };
  assertComplete(await resolveModel(ID, options));
  assert.ok(performance.now() - started < 10_000, "waited for the dead");
  assert.deepEqual(
    hub.requests.filter(({ line }) => BLOB.test(line)).map(({ range }) => range),
    [`bytes=${kept}-`],
  );
});

test("two processes download a file once", async () => {
  hub.faultAlways(BLOB, { kind: "slow", bytesPerMs: 300 });
  const other = ended(fetchInProcess());
  await until(() => hub.count(BLOB) > 0);
  const folder = await resolveModel(ID, { endpoint: hub.endpoint, cacheDir, token: null, http: FAST });
  assert.equal(await other, folder);
  assertComplete(folder);
  assert.equal(hub.count(BLOB), 1);
});
