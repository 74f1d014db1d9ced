import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { FormatError } from "./errors.ts";

/** A fresh folder, removed when the test ends. */
export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "unsloth-formats-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A folder of `tests/fixtures`, from the sources or from `dist`. */
export function fixtures(name: string): string {
  let root = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(root, "package.json"))) root = dirname(root);
  return join(root, "tests", "fixtures", name);
}

/** Asserts that `action` throws a `FormatError` (nothing else) whose message matches. */
export function assertFormatError(action: () => unknown, message: RegExp): void {
  assert.throws(action, (error) => {
    assert.ok(error instanceof FormatError, `expected a FormatError: ${error}`);
    assert.match(error.message, message);
    return true;
  });
}

/** Writes bytes and hands the path to `use`: for readers that take a path. */
export function withBytes<T>(path: string, bytes: Uint8Array, use: (path: string) => T): T {
  // Truncating a file and writing it anew makes ext4 wait for the disk; a new file does not.
  rmSync(path, { force: true });
  writeFileSync(path, bytes);
  return use(path);
}

/** mulberry32: uniform in [0, n). */
export function seededRandom(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) % n;
  };
}
