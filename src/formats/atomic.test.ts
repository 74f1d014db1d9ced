import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { atomicWriteFile, writeAll, writeAtomically } from "./atomic.ts";
import { temporaryFolder } from "./files.test.support.ts";

test("creates and replaces a file, with text or bytes, and leaves nothing else", async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, "trainer_state.json");
  await atomicWriteFile(path, "é");
  assert.equal(readFileSync(path, "utf8"), "é");
  const large = new Uint8Array(33 * 2 ** 20).map((_, i) => i);
  await atomicWriteFile(path, large);
  assert.ok(readFileSync(path).equals(large));
  assert.deepEqual(readdirSync(folder), ["trainer_state.json"]);
});

test("a failed write leaves the old file and throws what failed", async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, "a");
  await atomicWriteFile(path, "old");
  const failing = writeAtomically(path, async (file) => {
    await writeAll(file, Buffer.from("new"));
    assert.equal(readFileSync(path, "utf8"), "old");
    throw new Error("out of ideas");
  });
  await assert.rejects(failing, /out of ideas/);
  assert.equal(readFileSync(path, "utf8"), "old");
  assert.deepEqual(readdirSync(folder), ["a"]);
  await assert.rejects(atomicWriteFile(join(folder, "none", "a"), ""), /ENOENT/);
});

test("a full disk's error names the file", async (t) => {
  const path = join(temporaryFolder(t), "a");
  const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  await assert.rejects(
    writeAtomically(path, () => Promise.reject(full)),
    { code: "ENOSPC", message: `${path} cannot be written: ENOSPC: no space left on device, write` },
  );
});

test("a process killed in the middle of a write leaves the old file", (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, "a");
  writeFileSync(path, "old");
  const script = `
    import { writeAtomically, writeAll } from ${JSON.stringify(new URL(`./atomic${import.meta.url.slice(-3)}`, import.meta.url).href)};
    await writeAtomically(${JSON.stringify(path)}, async (file) => {
      await writeAll(file, Buffer.from("half of the new"));
      process.kill(process.pid, "SIGKILL");
    });`;
  const child = spawnSync(process.execPath, [
    ...process.execArgv.filter((flag) => !flag.startsWith("--test")),
    "--input-type=module",
    "-e",
    script,
  ]);
  assert.equal(child.signal, "SIGKILL", child.stderr.toString());
  assert.equal(readFileSync(path, "utf8"), "old");
});
