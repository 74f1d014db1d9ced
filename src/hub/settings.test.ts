import assert from "node:assert/strict";
import { rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { fails, temporaryFolder } from "./fake-hub.test.support.ts";
import { hubSettings } from "./settings.ts";

const cacheDir = (env: Record<string, string>, option?: string) => hubSettings({ cacheDir: option }, env).cacheDir;

test("the cache is where Python's huggingface_hub has it", () => {
  assert.equal(cacheDir({}), join(homedir(), ".cache", "huggingface", "hub"));
  assert.equal(cacheDir({ XDG_CACHE_HOME: "/x" }), resolve("/x/huggingface/hub"));
  assert.equal(cacheDir({ XDG_CACHE_HOME: "/x", HF_HOME: "/h" }), resolve("/h/hub"));
  assert.equal(cacheDir({ HF_HOME: "/h", HF_HUB_CACHE: "/c" }), resolve("/c"));
  assert.equal(cacheDir({ HF_HOME: "/h", HUGGINGFACE_HUB_CACHE: "/old" }), resolve("/old"));
  assert.equal(cacheDir({ HF_HUB_CACHE: "~/c", HOME: "/home/a" }), resolve("/home/a/c"));
  assert.equal(cacheDir({ HF_HUB_CACHE: "/c" }, "/option"), resolve("/option"));
});

test("the token: option, environment, file, none", () => {
  const folder = temporaryFolder();
  try {
    writeFileSync(join(folder, "token"), "hf_file\n");
    const env = { HF_HOME: folder };
    assert.equal(hubSettings({}, env).token, "hf_file");
    assert.equal(hubSettings({}, { ...env, HF_TOKEN: " hf_env\n" }).token, "hf_env");
    assert.equal(hubSettings({ token: "hf_option" }, { ...env, HF_TOKEN: "hf_env" }).token, "hf_option");
    assert.equal(hubSettings({ token: null }, { ...env, HF_TOKEN: "hf_env" }).token, undefined);
    assert.equal(hubSettings({}, { ...env, HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }).token, undefined);
    assert.equal(hubSettings({}, { HF_HOME: join(folder, "none") }).token, undefined);
    assert.equal(hubSettings({}, { HF_TOKEN_PATH: join(folder, "token") }).token, "hf_file");
    assert.throws(
      () => hubSettings({ token: "hf_sec\nret" }, {}),
      (error: Error) => {
        assert.ok(!error.message.includes("ret"), error.message);
        return fails("invalid-option", /token \(HF_TOKEN\): found characters/)(error);
      },
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("endpoint, offline, links, timeouts", () => {
  assert.equal(hubSettings({}, {}).endpoint, "https://huggingface.co");
  assert.equal(hubSettings({}, { HF_ENDPOINT: "http://mirror:8080/hf/" }).endpoint, "http://mirror:8080/hf");
  for (const endpoint of ["mirror.example", "ftp://x", "http://user:secret@x", "http://x?a=b"]) {
    assert.throws(
      () => hubSettings({ endpoint }, {}),
      (error: Error) => {
        assert.doesNotMatch(error.message, /secret/);
        return fails("invalid-option", /endpoint \(HF_ENDPOINT\): found/)(error);
      },
    );
  }
  for (const yes of ["1", "ON", "yes", "TRUE"]) assert.equal(hubSettings({}, { HF_HUB_OFFLINE: yes }).offline, true);
  for (const no of ["0", "", "no", "false"]) assert.equal(hubSettings({}, { HF_HUB_OFFLINE: no }).offline, false);
  assert.equal(hubSettings({}, { TRANSFORMERS_OFFLINE: "1" }).offline, true);
  assert.equal(hubSettings({ offline: false }, { HF_HUB_OFFLINE: "1" }).offline, false);
  assert.equal(hubSettings({}, { HF_HUB_DISABLE_SYMLINKS: "1" }).symlinks, false);
  const { http } = hubSettings({ http: { retries: 1 } }, { HF_HUB_ETAG_TIMEOUT: "3", HF_HUB_DOWNLOAD_TIMEOUT: "x" });
  assert.deepEqual([http.headTimeoutMs, http.idleTimeoutMs, http.retries], [3000, 30_000, 1]);
});
