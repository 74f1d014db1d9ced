import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import {
  FAST,
  FakeHub,
  fails,
  gitSha1,
  randomBytes,
  sha256,
  TOKEN,
  temporaryFolder,
  tinyModel,
} from "./fake-hub.test.support.ts";
import type { HubProgress } from "./progress.ts";
import { resolveModel } from "./resolve.ts";

const ID = "org/tiny";
const WEIGHTS = randomBytes(3000, 1);
const BLOB = /^GET cdn \/blobs\//;
const CONFIG = /^GET hub .*\/config\.json$/;

let hub: FakeHub;
let cacheDir: string;
before(async () => {
  hub = await FakeHub.start();
});
after(() => hub.close());
beforeEach(() => {
  hub.requests.length = 0;
  hub.detailed = true;
  hub.heal();
  hub.add(ID, tinyModel());
  cacheDir = temporaryFolder();
});
afterEach(() => rmSync(cacheDir, { recursive: true, force: true }));

function get(options: Parameters<typeof resolveModel>[1] = {}, id = ID): Promise<string> {
  return resolveModel(id, { endpoint: hub.endpoint, cacheDir, token: null, http: FAST, ...options });
}

const blobs = (): string[] => readdirSync(join(cacheDir, "models--org--tiny", "blobs")).sort();
const partial = (): string => join(cacheDir, "models--org--tiny", "blobs", `${sha256(WEIGHTS)}.unsloth.incomplete`);

test("a cut download is continued by range, and its digest is right", async () => {
  hub.fault(BLOB, { kind: "cut", after: 1000 }, { kind: "cut", after: 500 });
  const folder = await get();
  assert.deepEqual(readFileSync(join(folder, "model.safetensors")), WEIGHTS);
  const ranges = hub.requests.filter(({ line }) => BLOB.test(line)).map(({ range }) => range);
  assert.deepEqual(ranges, [undefined, "bytes=1000-", "bytes=1500-"]);
  assert.equal(existsSync(partial()), false);
});

test("what an earlier run left is continued", async () => {
  hub.faultAlways(BLOB, { kind: "cut", after: 700 });
  await assert.rejects(get({ http: { ...FAST, retries: 0 } }), fails("unreachable", /\/blobs\/[0-9a-f]{64}: /));
  assert.deepEqual(readFileSync(partial()), WEIGHTS.subarray(0, 700));
  hub.heal();
  hub.requests.length = 0;
  assert.deepEqual(readFileSync(join(await get(), "model.safetensors")), WEIGHTS);
  assert.deepEqual(
    hub.requests.filter(({ line }) => BLOB.test(line)).map(({ range }) => range),
    ["bytes=700-"],
  );
});

test("a server that ignores Range does not spoil what there is", async () => {
  hub.fault(BLOB, { kind: "cut", after: 1000 });
  hub.fault(BLOB, { kind: "ignore-range" });
  assert.deepEqual(readFileSync(join(await get(), "model.safetensors")), WEIGHTS);
  assert.equal(hub.count(BLOB), 2);
});

test("a server that answers another range is asked for everything", async () => {
  hub.fault(BLOB, { kind: "cut", after: 1000 }, { kind: "wrong-range" });
  assert.deepEqual(readFileSync(join(await get(), "model.safetensors")), WEIGHTS);
  assert.deepEqual(
    hub.requests.filter(({ line }) => BLOB.test(line)).map(({ range }) => range),
    [undefined, "bytes=1000-", undefined],
  );
});

test("corrupt contents are fetched again, small and large files", async () => {
  hub.fault(BLOB, { kind: "corrupt" });
  hub.fault(CONFIG, { kind: "corrupt" });
  const folder = await get();
  assert.deepEqual(readFileSync(join(folder, "model.safetensors")), WEIGHTS);
  assert.equal(readFileSync(join(folder, "config.json"), "utf8"), '{"model_type":"llama"}');
  assert.equal(hub.count(BLOB), 2);
});

test("contents that stay corrupt are an error, and never reach the snapshot", async () => {
  hub.faultAlways(BLOB, { kind: "corrupt" });
  await assert.rejects(get(), fails("digest-mismatch", /found contents with the digest [0-9a-f]{64}; expected/));
  assert.equal(hub.count(BLOB), 3);
  assert.ok(!blobs().includes(sha256(WEIGHTS)));
  assert.deepEqual(readFileSync(partial()), Buffer.alloc(0));
});

test("a partial file with wrong or too many bytes is replaced", async () => {
  for (const junk of [Buffer.alloc(700, 7), Buffer.alloc(3000, 7), Buffer.alloc(5000, 7)]) {
    hub.faultAlways(BLOB, { kind: "status", status: 500 });
    await assert.rejects(get({ http: { ...FAST, retries: 0 } }), fails("server-error", /500/));
    hub.heal();
    writeFileSync(partial(), junk);
    assert.deepEqual(readFileSync(join(await get(), "model.safetensors")), WEIGHTS);
    rmSync(join(cacheDir, "models--org--tiny"), { recursive: true });
  }
});

test("a body longer than announced is not taken", async () => {
  hub.fault(BLOB, { kind: "too-long" });
  assert.deepEqual(readFileSync(join(await get(), "model.safetensors")), WEIGHTS);
  assert.equal(hub.count(BLOB), 2);
});

test("429 and 5xx are tried again, after Retry-After where given", async () => {
  hub.fault(
    /GET hub \/api/,
    { kind: "status", status: 503 },
    { kind: "status", status: 429, headers: { "retry-after": "1" } },
  );
  hub.fault(/HEAD hub .*config/, { kind: "status", status: 500 });
  hub.fault(BLOB, { kind: "status", status: 502 }, { kind: "status", status: 403 });
  const started = performance.now();
  await get();
  assert.ok(performance.now() - started >= 990);
  assert.equal(hub.count(/GET hub \/api/), 3);
});

test("trouble that does not pass is an error after a bounded number of tries", async () => {
  hub.faultAlways(/GET hub \/api/, { kind: "status", status: 429 });
  await assert.rejects(get(), fails("rate-limited", /too many requests.*HF_TOKEN.*\(tried 4 times\)/));
  assert.equal(hub.count(/api/), 4);
});

test("a server that asks for too long a wait is an error at once", async () => {
  hub.faultAlways(/GET hub \/api/, { kind: "status", status: 429, headers: { "retry-after": "9999" } });
  await assert.rejects(get(), fails("rate-limited", /asks to wait 9999 s/));
  assert.equal(hub.count(/api/), 1);
});

test("a server that falls silent is a timeout, before the head and in the body", async () => {
  const http = { ...FAST, headTimeoutMs: 200, idleTimeoutMs: 200, retries: 0 };
  hub.fault(/GET hub \/api/, { kind: "hang" });
  await assert.rejects(get({ http }), fails("unreachable", /no answer for 0\.2 s/));
  hub.fault(BLOB, { kind: "hang", after: 400 });
  await assert.rejects(get({ http }), fails("unreachable", /no answer for 0\.2 s/));
  assert.deepEqual(readFileSync(partial()), WEIGHTS.subarray(0, 400));
  await get({ http });
});

test("a download that advances may be cut more often than there are retries", async () => {
  const large = randomBytes(5 * 2 ** 20 + 5, 2);
  hub.add(ID, { ...tinyModel(), "model.safetensors": large });
  hub.faultAlways(BLOB, { kind: "cut", after: 1.5 * 2 ** 20, delayMs: 200 });
  const folder = await get({ http: { ...FAST, retries: 1 } });
  assert.ok(readFileSync(join(folder, "model.safetensors")).equals(large));
  assert.ok(hub.count(BLOB) >= 4);
});

test("the token goes to the hub and never to the CDN", async () => {
  await get({ token: TOKEN });
  const to = (host: string) => hub.requests.filter(({ line }) => line.split(" ")[1] === host);
  assert.ok(to("cdn").length > 0 && to("hub").length > 0);
  assert.ok(to("cdn").every(({ authorization }) => authorization === undefined));
  assert.ok(to("hub").every(({ authorization }) => authorization === `Bearer ${TOKEN}`));
});

test("redirects within the hub are followed with the token, to elsewhere without", async () => {
  const moved = `${hub.endpoint}/api/models/${ID}/revision/main`;
  hub.fault(/GET hub \/api\/models\/org\/old/, { kind: "redirect", to: "/api/models/org/tiny/revision/main" });
  hub.fault(/HEAD hub \/org\/old/, ...Array(9).fill({ kind: "redirect", to: moved }));
  await assert.rejects(get({ token: TOKEN }, "org/old"), fails("bad-response", /X-Repo-Commit|ETag/));
  assert.ok(hub.requests.every(({ authorization }) => authorization === `Bearer ${TOKEN}`));
  hub.requests.length = 0;
  hub.fault(/GET hub \/api/, { kind: "redirect", to: `${hub.cdn}/api` });
  await assert.rejects(get({ token: TOKEN, http: { ...FAST, retries: 0 } }), fails("server-error", /404/));
  assert.equal(hub.requests.at(-1)!.line, "GET cdn /api");
  assert.equal(hub.requests.at(-1)!.authorization, undefined);
});

test("redirects in a circle or to another protocol end", async () => {
  hub.faultAlways(/GET hub \/api/, { kind: "redirect", to: "/api/again" });
  await assert.rejects(get(), fails("bad-response", /more than 10 redirects/));
  hub.heal();
  hub.fault(/GET hub \/api/, { kind: "redirect", to: "file:///etc/passwd" });
  await assert.rejects(get(), fails("bad-response", /redirect to file:/));
});

test("errors show no signature and no token", async () => {
  hub.faultAlways(BLOB, { kind: "status", status: 500 });
  await assert.rejects(get({ token: TOKEN }), (error: Error) => {
    assert.doesNotMatch(error.message, /secret/);
    assert.ok(!error.message.includes(TOKEN));
    return true;
  });
});

test("an ETag that is no digest, or another commit, is refused", async () => {
  hub.fault(/HEAD hub .*config/, { kind: "headers", headers: { etag: '"../../evil"' } });
  await assert.rejects(get(), fails("bad-response", /found ETag "\.\.\/\.\.\/evil"/));
  hub.fault(/HEAD hub .*config/, { kind: "headers", headers: { "x-repo-commit": "0".repeat(40) } });
  await assert.rejects(get(), fails("bad-response", /found X-Repo-Commit "0{40}"/));
  hub.fault(/HEAD hub .*config/, {
    kind: "headers",
    headers: { etag: `W/"${gitSha1(Buffer.from('{"model_type":"llama"}'))}"` },
  });
  await get();
});

test("a download that cannot fit fails before the first byte", async () => {
  hub.faultAlways(/HEAD hub .*safetensors/, { kind: "headers", headers: { "x-linked-size": String(2 ** 52) } });
  await assert.rejects(
    get(),
    fails("disk-full", /needs 4503599\.63 GB, and the disk of the cache .* has .* free.*HF_HUB_CACHE/),
  );
  assert.equal(hub.count(/^GET .*(blobs|config)/), 0);
});

test("progress adds up to all bytes and files, in order", async () => {
  hub.fault(BLOB, { kind: "cut", after: 1000 });
  const seen: HubProgress[] = [];
  await get({ onProgress: (progress) => seen.push(progress) });
  const total = Object.entries(tinyModel())
    .filter(([name]) => /^(config|generation_config|tokenizer|model)\b/.test(name))
    .reduce((sum, [, content]) => sum + Buffer.from(content).length, 0);
  const last = seen.at(-1)!;
  assert.deepEqual([last.done, last.total, last.files], [total, total, { done: 4, total: 4 }]);
  for (const [i, { done, files }] of seen.entries()) {
    if (i > 0) assert.ok(files.done >= seen[i - 1]!.files.done && done >= seen[i - 1]!.done);
  }
});

test("an abort stops at once and keeps what came", async () => {
  hub.fault(BLOB, { kind: "hang", after: 900 });
  const abort = new AbortController();
  const running = get({ signal: abort.signal });
  while (!existsSync(partial()) || readFileSync(partial()).length < 900) await new Promise((r) => setTimeout(r, 5));
  abort.abort();
  await assert.rejects(running, { name: "AbortError" });
  assert.equal(readFileSync(partial()).length, 900);
  assert.deepEqual(readdirSync(join(cacheDir, ".locks", "models--org--tiny")), []);
});
