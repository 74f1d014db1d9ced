/** What npm needs to compile the kernels where the package is installed from a registry or a tarball. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const script = "scripts/build-native.mjs";

interface Package {
  readonly files: readonly string[];
  readonly scripts: Readonly<Record<string, string>>;
  readonly dependencies: Readonly<Record<string, string>>;
}

test("the package has its install script, what that imports, and the headers as a dependency", () => {
  const { files, scripts, dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as Package;
  const [, entry] = /^node (\S+) install$/.exec(scripts.install ?? "") ?? [];
  assert.ok(entry && files.includes(entry) && existsSync(join(root, entry)));
  const imported = [...readFileSync(join(root, entry), "utf8").matchAll(/from "\.\/([^"]+)"/g)].map(([, file]) => file);
  assert.deepEqual(imported, ["build-native.mjs"]);
  assert.ok(files.includes(script) && files.includes("native"));
  assert.ok("node-api-headers" in dependencies);
});

test("the headers are found beside the package, where npm puts them, and are missed where there are none", async () => {
  const { findHeaders } = (await import(new URL(script, `file://${root}`).href)) as {
    findHeaders(root: string): string | undefined;
  };
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "package of ü ")));
  try {
    const installed = join(folder, "with", "node_modules", "unsloth");
    const headers = join(folder, "with", "node_modules", "node-api-headers");
    const alone = join(folder, "without", "node_modules", "unsloth");
    for (const dir of [installed, headers, alone]) {
      mkdirSync(dir, { recursive: true });
      writeFileSync(join(dir, "package.json"), "{}");
    }
    assert.equal(findHeaders(installed), join(headers, "include"));
    assert.equal(findHeaders(alone), undefined);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("the types bring the library they need: they compile where target is es2022", () => {
  const types = readFileSync(new URL("../../index.ts", import.meta.url.replace("/dist/", "/src/")), "utf8");
  assert.match(types, /^\/\/\/ <reference lib="esnext\.disposable" preserve="true" \/>\n/);
});
