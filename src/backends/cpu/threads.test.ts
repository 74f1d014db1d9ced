import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { it } from "node:test";
import { usableProcessors } from "./threads.ts";

it("respects a container's CPU quota", () => {
  const folder = mkdtempSync(join(tmpdir(), "quota-"));
  const file = join(folder, "cpu.max");
  const all = availableParallelism();
  for (const [text, expected] of [
    ["100000 100000\n", 1],
    ["50000 100000\n", 1],
    ["10000000 100000\n", all],
    ["max 100000\n", all],
    ["", all],
    ["nonsense", all],
    ["0 0", all],
  ] as const) {
    writeFileSync(file, text);
    assert.equal(usableProcessors(file), expected, JSON.stringify(text));
  }
  rmSync(folder, { recursive: true });
  assert.equal(usableProcessors(file), all);
});
