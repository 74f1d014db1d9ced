import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync } from "node:fs";
import { test } from "node:test";

const root = new URL("../../", import.meta.url);
const { bin } = JSON.parse(readFileSync(new URL("package.json", root), "utf8")) as { bin: Record<string, string> };
const built = new URL(bin.unsloth!, root);
const skip = process.platform === "win32" || !existsSync(built) ? "nothing was built, or files have no modes" : false;

test("the command that was built can be run as one", { skip }, () => {
  assert.match(readFileSync(built, "utf8"), /^#!\/usr\/bin\/env node\n/);
  assert.equal(statSync(built).mode & 0o111, 0o111);
});
