import assert from "node:assert/strict";
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { FAST, fails, randomBytes, sha256, TOKEN, temporaryFolder } from "./fake-hub.test.support.ts";
import { COMMIT, FakeUploads } from "./fake-uploads.test.support.ts";
import { pushToHub } from "./upload.ts";

const WEIGHTS = randomBytes(200_000, 4);

let hub: FakeUploads;
let folder: string;
before(async () => {
  hub = await FakeUploads.start();
});
after(() => hub.close());
beforeEach(() => {
  hub.seen.length = 0;
  hub.troubles.length = 0;
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

const push = (id: string, options: Parameters<typeof pushToHub>[2] = {}) =>
  pushToHub(folder, id, { endpoint: hub.endpoint, token: TOKEN, http: FAST, ...options });
const bodyOf = (match: RegExp): Buffer => hub.seen.findLast(({ line }) => match.test(line))!.body;

test("a folder becomes one commit of a new repository, large files by LFS", async () => {
  const pushed = await push("org/tuned", { private: true, commitMessage: "Tuned" });
  const files = ["adapter_config.json", "adapter_model.safetensors", "linked.json", "sub/notes.md"];
  assert.deepEqual(pushed, { repoId: "org/tuned", url: `${hub.endpoint}/org/tuned`, commit: COMMIT, files });
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
  hub.troubles.push([/create/, 409]);
  const pushed = await push("tuned", { repoType: "dataset", revision: "dev" });
  assert.equal(pushed.repoId, "me/tuned");
  assert.equal(pushed.url, `${hub.endpoint}/datasets/me/tuned`);
  assert.ok(hub.seen.some(({ line }) => line.startsWith("POST /api/datasets/me/tuned/commit/dev")));
});

test("a busy server is tried again; the token goes to the hub only as given", async () => {
  hub.troubles.push([/preupload/, 503], [/^PUT/, 429], [/commit/, 502]);
  await push("org/tuned");
  assert.equal(hub.seen.filter(({ line }) => /^PUT/.test(line)).length, 2);
  assert.ok(bodyOf(/^PUT/).equals(WEIGHTS));
  assert.ok(hub.seen.filter(({ line }) => /^PUT/.test(line)).every(({ authorization }) => authorization === undefined));
});

test("what stands in the way is said", async () => {
  await assert.rejects(
    push("org/tuned", { token: null }),
    fails("unauthorized", /token \(HF_TOKEN\): found none.*write access/),
  );
  await assert.rejects(push("org/tuned", { token: "secret" }), fails("unauthorized", /does not start with "hf_"/));
  hub.troubles.push([/create/, 403]);
  await assert.rejects(
    push("org/tuned"),
    fails("unauthorized", /org\/tuned: the token \(HF_TOKEN\) may not write there \(403\)/),
  );
  hub.troubles.push([/commit/, 404]);
  await assert.rejects(push("org/tuned"), fails("repo-not-found", /the upload failed \(404\)/));
  hub.troubles.push(...Array.from({ length: 4 }, (): [RegExp, number] => [/commit/, 503]));
  await assert.rejects(push("org/tuned"), fails("server-error", /busy \(503\) \(tried 4 times\)/));
  await assert.rejects(push("org/a/b"), fails("invalid-id", /model id/));
  await assert.rejects(
    pushToHub(join(folder, "none"), "org/x", { endpoint: hub.endpoint, token: TOKEN }),
    fails("invalid-option", /found ENOENT/),
  );
  await assert.rejects(
    pushToHub(join(folder, ".cache", "x"), "org/x", { endpoint: hub.endpoint, token: TOKEN }),
    fails("invalid-option", /ENOENT/),
  );
  mkdirSync(join(folder, "empty"));
  await assert.rejects(
    pushToHub(join(folder, "empty"), "org/x", { endpoint: hub.endpoint, token: TOKEN }),
    fails("invalid-option", /no files/),
  );
});
