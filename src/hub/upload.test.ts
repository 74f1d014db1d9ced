import assert from "node:assert/strict";
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { FAST, fails, randomBytes, sha256, TOKEN, temporaryFolder } from "./fake-hub.test.support.ts";
import { pushToHub } from "./upload.ts";

const COMMIT = "c".repeat(40);
const WEIGHTS = randomBytes(200_000, 4);

/** A hub's upload side: what was committed, and the statuses that the next requests get instead of an answer. */
let server: Server;
let endpoint: string;
const seen: { line: string; body: Buffer; authorization: string | undefined }[] = [];
const troubles: [RegExp, number][] = [];
let folder: string;

before(async () => {
  server = createServer((request, response) => void answer(request, response));
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
after(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  seen.length = 0;
  troubles.length = 0;
  folder = temporaryFolder();
  mkdirSync(join(folder, "sub"));
  mkdirSync(join(folder, ".cache"));
  writeFileSync(join(folder, "adapter_config.json"), '{"r":16}');
  writeFileSync(join(folder, "adapter_model.safetensors"), WEIGHTS);
  writeFileSync(join(folder, "sub", "notes.md"), "hello");
  writeFileSync(join(folder, ".cache", "secret"), "no");
  symlinkSync("adapter_config.json", join(folder, "linked.json"));
});
afterEach(() => rmSync(folder, { recursive: true }));

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  const body = Buffer.concat(parts);
  const line = `${request.method} ${request.url}`;
  seen.push({ line, body, authorization: request.headers.authorization });
  const trouble = troubles.findIndex(([match]) => match.test(line));
  if (trouble >= 0) return void response.writeHead(troubles.splice(trouble, 1)[0]![1]).end();
  const json = (value: unknown) =>
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
  if (line === "GET /api/whoami-v2") return void json({ type: "user", id: "1", name: "me", orgs: [], auth: {} });
  if (line === "POST /api/repos/create") return void json({ url: `${endpoint}/org/tuned`, id: "1" });
  if (/preupload/.test(line)) {
    const { files } = JSON.parse(body.toString()) as { files: { path: string }[] };
    const uploadMode = (path: string) => (path.endsWith(".safetensors") ? "lfs" : "regular");
    return void json({ files: files.map(({ path }) => ({ path, uploadMode: uploadMode(path) })) });
  }
  if (/info\/lfs\/objects\/batch$/.test(line)) {
    const { objects } = JSON.parse(body.toString()) as { objects: { oid: string; size: number }[] };
    const actions = (oid: string) => ({ upload: { href: `${endpoint}/lfs/${oid}` } });
    return void json({
      transfer: "basic",
      objects: objects.map(({ oid, size }) => ({ oid, size, actions: actions(oid) })),
    });
  }
  if (/^PUT \/lfs\//.test(line)) return void response.writeHead(200).end();
  if (/\/commit\//.test(line)) return void json({ commitOid: COMMIT, commitUrl: "x", hookOutput: "" });
  response.writeHead(404).end();
}

const push = (id: string, options: Parameters<typeof pushToHub>[2] = {}) =>
  pushToHub(folder, id, { endpoint, token: TOKEN, http: FAST, ...options });
const bodyOf = (match: RegExp): Buffer => seen.findLast(({ line }) => match.test(line))!.body;

test("a folder becomes one commit of a new repository, large files by LFS", async () => {
  const pushed = await push("org/tuned", { private: true, commitMessage: "Tuned" });
  const files = ["adapter_config.json", "adapter_model.safetensors", "linked.json", "sub/notes.md"];
  assert.deepEqual(pushed, { repoId: "org/tuned", url: `${endpoint}/org/tuned`, commit: COMMIT, files });
  const created = JSON.parse(bodyOf(/create/).toString()) as Record<string, unknown>;
  assert.deepEqual([created.name, created.organization, created.type], ["tuned", "org", "model"]);
  assert.equal(created.visibility, "private");
  assert.ok(bodyOf(/^PUT/).equals(WEIGHTS));
  const committed = bodyOf(/^POST \/api\/models\/org\/tuned\/commit\/main/)
    .toString()
    .split("\n")
    .map((line) => JSON.parse(line) as { key: string; value: Record<string, string> });
  assert.equal(committed[0]!.value.summary, "Tuned");
  const content = (path: string) => committed.find(({ value }) => value.path === path)!.value;
  assert.equal(Buffer.from(content("sub/notes.md").content!, "base64").toString(), "hello");
  assert.equal(Buffer.from(content("linked.json").content!, "base64").toString(), '{"r":16}');
  assert.equal(content("adapter_model.safetensors").oid, sha256(WEIGHTS));
  assert.equal(committed.length, 1 + files.length);
});

test("an existing repository is used; an id without an organisation is the account's; data sets too", async () => {
  troubles.push([/create/, 409]);
  const pushed = await push("tuned", { repoType: "dataset", revision: "dev" });
  assert.equal(pushed.repoId, "me/tuned");
  assert.equal(pushed.url, `${endpoint}/datasets/me/tuned`);
  assert.ok(seen.some(({ line }) => line.startsWith("POST /api/datasets/me/tuned/commit/dev")));
});

test("a busy server is tried again; the token goes to the hub only as given", async () => {
  troubles.push([/preupload/, 503], [/^PUT/, 429], [/commit/, 502]);
  await push("org/tuned");
  assert.equal(seen.filter(({ line }) => /^PUT/.test(line)).length, 2);
  assert.ok(bodyOf(/^PUT/).equals(WEIGHTS));
  assert.ok(seen.filter(({ line }) => /^PUT/.test(line)).every(({ authorization }) => authorization === undefined));
});

test("what stands in the way is said", async () => {
  await assert.rejects(
    push("org/tuned", { token: null }),
    fails("unauthorized", /token \(HF_TOKEN\): found none.*write access/),
  );
  await assert.rejects(push("org/tuned", { token: "secret" }), fails("unauthorized", /does not start with "hf_"/));
  troubles.push([/create/, 403]);
  await assert.rejects(
    push("org/tuned"),
    fails("unauthorized", /org\/tuned: the token \(HF_TOKEN\) may not write there \(403\)/),
  );
  troubles.push([/commit/, 404]);
  await assert.rejects(push("org/tuned"), fails("repo-not-found", /the upload failed \(404\)/));
  troubles.push(...Array.from({ length: 4 }, (): [RegExp, number] => [/commit/, 503]));
  await assert.rejects(push("org/tuned"), fails("server-error", /busy \(503\) \(tried 4 times\)/));
  await assert.rejects(push("org/a/b"), fails("invalid-id", /model id/));
  await assert.rejects(
    pushToHub(join(folder, "none"), "org/x", { endpoint, token: TOKEN }),
    fails("invalid-option", /found ENOENT/),
  );
  await assert.rejects(
    pushToHub(join(folder, ".cache", "x"), "org/x", { endpoint, token: TOKEN }),
    fails("invalid-option", /ENOENT/),
  );
  mkdirSync(join(folder, "empty"));
  await assert.rejects(
    pushToHub(join(folder, "empty"), "org/x", { endpoint, token: TOKEN }),
    fails("invalid-option", /no files/),
  );
});
