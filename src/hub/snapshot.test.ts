import assert from "node:assert/strict";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import {
  deadEndpoint,
  FAST,
  FakeHub,
  fails,
  gitSha1,
  sha256,
  TOKEN,
  temporaryFolder,
  tinyModel,
} from "./fake-hub.test.support.ts";
import { resolveDataset, resolveModel } from "./resolve.ts";

const ID = "org/tiny";
const MODEL = tinyModel();
const WEIGHTS = MODEL["model.safetensors"] as Buffer;
const USUAL = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];

let hub: FakeHub;
let commit: string;
let cacheDir: string;
before(async () => {
  hub = await FakeHub.start();
});
after(() => hub.close());
beforeEach(() => {
  hub.requests.length = 0;
  hub.detailed = true;
  hub.heal();
  commit = hub.add(ID, MODEL);
  hub.add("org/gguf", { "a.gguf": "a" });
  cacheDir = temporaryFolder();
});
afterEach(() => rmSync(cacheDir, { recursive: true, force: true }));

function get(options: Parameters<typeof resolveModel>[1] = {}, id = ID): Promise<string> {
  return resolveModel(id, { endpoint: hub.endpoint, cacheDir, token: null, http: FAST, ...options });
}
const inCache = (...parts: string[]): string => join(cacheDir, "models--org--tiny", ...parts);
const offline = { offline: true, endpoint: "http://127.0.0.1:1" };

test("the cache has Hugging Face's layout: blobs, relative links, refs, and nothing else is left", async () => {
  const folder = await get();
  assert.equal(folder, inCache("snapshots", commit));
  assert.deepEqual(readdirSync(folder).sort(), USUAL);
  assert.equal(readlinkSync(join(folder, "model.safetensors")), join("..", "..", "blobs", sha256(WEIGHTS)));
  assert.equal(
    readlinkSync(join(folder, "config.json")),
    join("..", "..", "blobs", gitSha1(Buffer.from(MODEL["config.json"]!))),
  );
  assert.equal(readFileSync(inCache("refs", "main"), "utf8"), commit);
  assert.equal(readdirSync(inCache("blobs")).length, USUAL.length);
  assert.deepEqual(readdirSync(inCache()).sort(), ["blobs", "refs", "snapshots", "trees"]);
  assert.deepEqual(readdirSync(join(cacheDir, ".locks", "models--org--tiny")), []);
});

test("a second call asks only for the revision's commit; a commit asks for nothing", async () => {
  const folder = await get();
  hub.requests.length = 0;
  assert.equal(await get(), folder);
  assert.deepEqual(
    hub.requests.map(({ line }) => line),
    [`GET hub /api/models/${ID}/revision/main`],
  );
  hub.requests.length = 0;
  assert.equal(await get({ revision: commit }), folder);
  assert.deepEqual(hub.requests, []);
});

test("a new commit reuses blobs, and the old snapshot stays", async () => {
  const old = await get();
  hub.add(ID, { ...MODEL, "config.json": '{"model_type":"qwen2"}' });
  hub.requests.length = 0;
  const folder = await get();
  assert.notEqual(folder, old);
  assert.equal(readFileSync(join(folder, "config.json"), "utf8"), '{"model_type":"qwen2"}');
  assert.equal(readFileSync(join(old, "config.json"), "utf8"), MODEL["config.json"]);
  assert.equal(hub.count(/^GET cdn/), 0);
  assert.equal(hub.count(/^GET hub \/org/), 1);
});

test("offline uses what is there, and says what would work if it is not", async () => {
  await assert.rejects(get(offline), fails("not-cached", /is not in the cache .*never downloaded.*HF_HUB_OFFLINE/));
  const folder = await get();
  assert.equal(await get(offline), folder);
  assert.equal(await get({ ...offline, revision: commit }), folder);
  await assert.rejects(get({ ...offline, revision: "dev" }), fails("not-cached", /revision dev/));
  rmSync(join(folder, "tokenizer.json"));
  await assert.rejects(get(offline), fails("not-cached", /tokenizer\.json is missing/));
  const asked = process.env.HF_HUB_OFFLINE;
  process.env.HF_HUB_OFFLINE = "1";
  try {
    await assert.rejects(get(), fails("not-cached", /offline mode is on/));
  } finally {
    if (asked === undefined) delete process.env.HF_HUB_OFFLINE;
    else process.env.HF_HUB_OFFLINE = asked;
  }
});

test("a hub that does not answer is replaced by the cache, with a warning", async () => {
  const folder = await get();
  const warned = new Promise<Error>((done) => process.once("warning", done));
  const endpoint = await deadEndpoint();
  assert.equal(await get({ endpoint }), folder);
  const warning = await warned;
  assert.equal(warning.name, "HubWarning");
  assert.match(warning.message, /using the copy in the cache.*ECONNREFUSED/);
  await assert.rejects(get({ endpoint }, "org/other"), fails("unreachable", /ECONNREFUSED.*tried 4 times/));
  await assert.rejects(get({ revision: "gone" }), fails("revision-not-found", /no revision "gone"/));
});

test("an update that was interrupted leaves the branch at the old commit until it is done", async () => {
  const old = await get();
  const newer = hub.add(ID, { ...MODEL, "model.safetensors": Buffer.alloc(2000, 5) });
  hub.faultAlways(/^GET cdn/, { kind: "cut", after: 100 });
  await assert.rejects(get({ http: { ...FAST, retries: 0 } }));
  assert.equal(await get(offline), old);
  await assert.rejects(get({ ...offline, revision: newer }), fails("not-cached", /model\.safetensors is missing/));
  hub.heal();
  assert.equal(await get(), inCache("snapshots", newer));
  assert.equal(await get({ ...offline, revision: newer }), inCache("snapshots", newer));
});

test("a damaged cache is repaired: lost, cut and dangling files, a broken ref", async () => {
  const folder = await get();
  const whole = () => assert.deepEqual(readFileSync(join(folder, "model.safetensors")), WEIGHTS);
  rmSync(inCache("blobs", sha256(WEIGHTS)));
  await get();
  whole();
  writeFileSync(inCache("blobs", sha256(WEIGHTS)), WEIGHTS.subarray(0, 10));
  await get();
  whole();
  rmSync(join(folder, "model.safetensors"));
  hub.requests.length = 0;
  await get({ revision: commit });
  whole();
  assert.equal(hub.count(/^GET cdn/), 0);
  rmSync(join(folder, "model.safetensors"));
  symlinkSync("../../blobs/nowhere", join(folder, "model.safetensors"));
  await get();
  whole();
  writeFileSync(inCache("refs", "main"), "../../../evil");
  await assert.rejects(get(offline), fails("not-cached", /never downloaded/));
  assert.equal(await get(), folder);
  assert.equal(readFileSync(inCache("refs", "main"), "utf8"), commit);
});

test("a snapshot without a listing, as other tools leave it, is used and completed", async () => {
  mkdirSync(inCache("snapshots", commit), { recursive: true });
  mkdirSync(inCache("refs"));
  writeFileSync(inCache("refs", "main"), commit);
  writeFileSync(inCache("snapshots", commit, "config.json"), MODEL["config.json"]!);
  await assert.rejects(get(offline), fails("not-cached", /neither model\.safetensors nor/));
  writeFileSync(inCache("snapshots", commit, "model.safetensors"), WEIGHTS);
  assert.equal(await get(offline), inCache("snapshots", commit));
  await get({ revision: commit });
  assert.equal(hub.count(/^GET cdn|^GET hub .*resolve.*\/config/), 0);
  assert.deepEqual(readdirSync(inCache("snapshots", commit)).sort(), USUAL);
});

test("a hub whose listings tell no sizes works too", async () => {
  hub.detailed = false;
  const folder = await get();
  assert.deepEqual(readFileSync(join(folder, "model.safetensors")), WEIGHTS);
  assert.equal(existsSync(inCache("trees")), false);
  hub.requests.length = 0;
  assert.equal(await get(), folder);
  assert.equal(hub.requests.length, 1);
  assert.equal(await get(offline), folder);
});

test("without links, snapshots hold the files themselves", async () => {
  process.env.HF_HUB_DISABLE_SYMLINKS = "1";
  try {
    const folder = await get();
    assert.ok(USUAL.every((name) => lstatSync(join(folder, name)).isFile()));
    assert.deepEqual(readdirSync(inCache("blobs")), []);
    hub.requests.length = 0;
    assert.equal(await get(), folder);
    assert.equal(hub.requests.length, 1);
    // A blob that is there, and may be linked to from elsewhere, is copied.
    rmSync(join(folder, "model.safetensors"));
    writeFileSync(inCache("blobs", sha256(WEIGHTS)), WEIGHTS);
    await get();
    assert.deepEqual(readFileSync(join(folder, "model.safetensors")), WEIGHTS);
    assert.deepEqual(readdirSync(inCache("blobs")), [sha256(WEIGHTS)]);
  } finally {
    delete process.env.HF_HUB_DISABLE_SYMLINKS;
  }
});

test("a moved cache still works", async () => {
  await get();
  const moved = `${cacheDir}-moved`;
  renameSync(cacheDir, moved);
  try {
    const folder = await get({ ...offline, cacheDir: moved });
    assert.deepEqual(readFileSync(join(folder, "model.safetensors")), WEIGHTS);
  } finally {
    renameSync(moved, cacheDir);
  }
});

test("shards: those the index names, and no others", async () => {
  const index = { weight_map: { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" } };
  const { "model.safetensors": _, ...rest } = MODEL;
  const sharded = {
    ...rest,
    "model.safetensors.index.json": JSON.stringify(index),
    "model-00001-of-00002.safetensors": "one",
    "model-00002-of-00002.safetensors": "two",
    "consolidated.safetensors": "all",
  };
  hub.add("org/sharded", sharded);
  const folder = await get({}, "org/sharded");
  assert.deepEqual(readdirSync(folder).sort(), [
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
  ]);
  assert.equal(await get(offline, "org/sharded"), folder);
  for (const shard of ["../../../../etc/passwd", "/etc/passwd", "a/../../b.safetensors", "C:\\x", 7]) {
    const hostile = JSON.stringify({ weight_map: { a: shard } });
    hub.add("org/hostile", { ...sharded, "model.safetensors.index.json": hostile });
    await assert.rejects(get({}, "org/hostile"), fails("unsafe-name", /index\.json: found the file name/));
  }
  const absent = JSON.stringify({ weight_map: { a: "model-00003-of-00003.safetensors" } });
  hub.add("org/absent", { ...sharded, "model.safetensors.index.json": absent });
  await assert.rejects(
    get({}, "org/absent"),
    fails("no-usable-files", /names model-00003-of-00003\.safetensors, which/),
  );
});

test("names that leave the repository are refused, and nothing is written", async () => {
  for (const name of ["../evil", "/etc/evil", "a/../../evil", "a//b", "a\\..\\evil", "", "nul\0", 5]) {
    hub.fault(/GET hub \/api/, { kind: "json", json: { sha: commit, siblings: [{ rfilename: name }] } });
    await assert.rejects(get({ allowPatterns: "*" }), fails("unsafe-name", /found the file name.*Nothing was written/));
  }
  assert.deepEqual(readdirSync(cacheDir), []);
});

test("a listing that is none is refused", async () => {
  const bad: [unknown, RegExp][] = [
    [[], /found \[\]/],
    [{ sha: "../../x", siblings: [] }, /sha: "\.\.\/\.\.\/x"/],
    [{ sha: commit }, /siblings: nothing/],
    [{ sha: commit, siblings: [7] }, /siblings: 7/],
  ];
  for (const [json, message] of bad) {
    hub.fault(/GET hub \/api/, { kind: "json", json });
    await assert.rejects(get(), fails("bad-response", message));
  }
  hub.fault(/GET hub \/api/, { kind: "json", json: { sha: "0".repeat(40), siblings: [] } });
  await assert.rejects(get({ revision: commit }), fails("bad-response", /found the commit 0{40}/));
});

test("no access: what it takes to get it", async () => {
  hub.add("org/gated", MODEL, { status: 403, code: "GatedRepo" });
  await assert.rejects(
    get({}, "org/gated"),
    fails("gated", /org\/gated is gated\. Ask for access at .*\/org\/gated, then set HF_TOKEN/),
  );
  await assert.rejects(get({ token: "hf_other" }, "org/gated"), fails("gated", /this token has no access \(yet\)/));
  assert.ok(await get({ token: TOKEN }, "org/gated"));
  await assert.rejects(
    get({}, "org/missing"),
    fails("repo-not-found", /org\/missing was not found .*no token was given \(HF_TOKEN\)/),
  );
  hub.fault(/api/, {
    kind: "status",
    status: 401,
    headers: { "x-error-message": "Invalid credentials in Authorization header" },
  });
  await assert.rejects(get({ token: "hf_old" }), fails("unauthorized", /the access token is not valid/));
  hub.fault(/api/, { kind: "status", status: 403, headers: { "x-error-message": "No rights" } });
  await assert.rejects(
    get({ token: "hf_x" }),
    fails("unauthorized", /access refused \(403\).*The server says: No rights/),
  );
  hub.fault(/HEAD .*tokenizer/, { kind: "status", status: 404, headers: { "x-error-code": "EntryNotFound" } });
  await assert.rejects(get(), fails("file-not-found", /no file "tokenizer\.json" at revision/));
});

test("GGUF files by name or part of it; pickles never", async () => {
  hub.add("org/quants", { "a-Q4_K_M.gguf": "four", "a-Q8_0.gguf": "eight", "b-00001-of-00002.gguf": "part" });
  const file = await get({}, "org/quants:a-Q8_0.gguf");
  assert.equal(readFileSync(file, "utf8"), "eight");
  assert.equal(await get({}, "org/quants:q8_0"), file);
  assert.equal(await get({ ggufFile: "a-Q8_0.gguf" }, "org/quants"), file);
  assert.equal(await get(offline, "org/quants:q8_0"), file);
  await assert.rejects(
    get({}, "org/quants"),
    fails("no-usable-files", /GGUF files, of which one must be chosen.*a-Q4_K_M\.gguf/),
  );
  await assert.rejects(get({}, "org/quants:a-Q4_K_N.gguf"), fails("no-usable-files", /did you mean "a-Q4_K_M\.gguf"/));
  await assert.rejects(get({}, "org/quants:a-"), fails("no-usable-files", /2 GGUF files for "a-"/));
  await assert.rejects(get({}, "org/quants:b-0"), fails("no-usable-files", /one part of a model/));
  await assert.rejects(get({}, "org/quants:"), fails("invalid-id", /expected a \.gguf file/));
  hub.add("org/pickled", { "config.json": "{}", "pytorch_model.bin": "x" });
  await assert.rejects(get({}, "org/pickled"), fails("no-usable-files", /pickles only \(pytorch_model\.bin\)/));
  await assert.rejects(get({ allowPatterns: "*.bin" }), fails("no-usable-files", /never downloaded/));
  const all = readdirSync(await get({ allowPatterns: ["*"] }));
  assert.ok(all.includes("README.md") && !all.includes("pytorch_model.bin"));
});

test("adapters, and files in folders", async () => {
  hub.add("org/adapter", { "adapter_config.json": "{}", "adapter_model.safetensors": "a", "optimizer.pt": "x" });
  assert.deepEqual(readdirSync(await get({}, "org/adapter")).sort(), [
    "adapter_config.json",
    "adapter_model.safetensors",
  ]);
  hub.add("org/deep", { ...MODEL, "additional_chat_templates/tools.jinja": "{{ x }}" });
  const folder = await get({}, "org/deep");
  const template = join(folder, "additional_chat_templates", "tools.jinja");
  assert.equal(readFileSync(template, "utf8"), "{{ x }}");
  assert.ok(readlinkSync(template).startsWith(join("..", "..", "..", "blobs")));
});

test("data sets", async () => {
  hub.add("datasets/org/rows", {
    "README.md": "---\n---",
    "data/train.parquet": "p",
    "b.jsonl": "{}",
    "load.py": "x",
    ".hidden.json": "{}",
  });
  const options = { endpoint: hub.endpoint, cacheDir, token: null, http: FAST };
  const folder = await resolveDataset("org/rows", options);
  assert.ok(folder.startsWith(join(cacheDir, "datasets--org--rows", "snapshots")));
  assert.deepEqual(readdirSync(folder, { recursive: true }).sort(), [
    "README.md",
    "b.jsonl",
    "data",
    join("data", "train.parquet"),
  ]);
  assert.equal(await resolveDataset("org/rows", { ...options, ...offline }), folder);
  hub.add("datasets/org/none", { "load.py": "x" });
  await assert.rejects(resolveDataset("org/none", options), fails("no-usable-files", /no data in Parquet.*load\.py/));
});

test("a pull request's revision, and branches that name a path", async () => {
  await get({ revision: "refs/pr/1" });
  assert.equal(readFileSync(inCache("refs", "refs", "pr", "1"), "utf8"), commit);
  for (const revision of ["../x", "a/../../x", "", "/main", "a\\b"]) {
    await assert.rejects(get({ revision }), fails("invalid-option", /revision: found/));
  }
});

test("local paths are returned as they are; what is neither is an error", async () => {
  assert.equal(await get({}, cacheDir), cacheDir);
  assert.equal(await resolveDataset(cacheDir), cacheDir);
  for (const id of ["./nowhere", "/no/where", "a/b/c", "~/model", "C:\\models\\x"]) {
    await assert.rejects(get({}, id), fails("invalid-id", /there is no file or folder/));
  }
  for (const id of ["org/na me", "org--x/y", "a..b/c", "x.git", "org/", "-a/b", `${"a".repeat(97)}`]) {
    await assert.rejects(get({}, id), fails("invalid-id", /model id: found/));
  }
  assert.deepEqual(hub.requests, []);
});

test("a cache that cannot be written: complete it is used, else the error says what to do", async () => {
  const folder = await get();
  for (const path of [cacheDir, inCache(), inCache("refs"), join(cacheDir, ".locks")]) chmodSync(path, 0o555);
  // Root may write everywhere: be nobody for a moment.
  const root = process.geteuid?.() === 0;
  if (root) process.seteuid?.(65534);
  try {
    assert.equal(await get(), folder);
    assert.equal(await get({ revision: "refs/pr/1" }), folder);
    await assert.rejects(get({}, "org/gguf:a"), fails("cache-not-writable", /cannot be written.*HF_HUB_CACHE/));
  } finally {
    if (root) process.seteuid?.(0);
    for (const path of [cacheDir, inCache(), inCache("refs"), join(cacheDir, ".locks")]) chmodSync(path, 0o755);
  }
});
