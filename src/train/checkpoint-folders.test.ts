import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import {
  checkpointFolder,
  getLastCheckpoint,
  keepOnly,
  removeOldCheckpoints,
  tidyCheckpoints,
  writeWhole,
} from "./checkpoint-folders.ts";
import { inFolder } from "./tiny-training.test.support.ts";

/** A folder with one file. @param age seconds ago that it was written */
function make(outputDir: string, name: string, content = name, age = 0): void {
  const folder = join(outputDir, name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "file"), content);
  const time = Date.now() / 1000 - age;
  utimesSync(folder, time, time);
}

const steps = (outputDir: string): string[] => readdirSync(outputDir).sort();

test("the last checkpoint is that of the highest step; other names are not looked at", async () => {
  await inFolder(async (dir) => {
    assert.equal(await getLastCheckpoint(join(dir, "none")), null);
    for (const name of ["checkpoint-9", "checkpoint-10", "checkpoint-11x", ".partial-checkpoint-12", "runs"]) {
      make(dir, name);
    }
    writeFileSync(join(dir, "checkpoint-99"), "a file");
    assert.equal(await getLastCheckpoint(dir), checkpointFolder(dir, 10));
  });
});

test("a folder is whole or not there; writing it again replaces it", async () => {
  await inFolder(async (dir) => {
    const folder = checkpointFolder(dir, 1);
    const fill = (content: string, fails = false) =>
      writeWhole(folder, async (partial) => {
        await mkdir(join(partial, "inner"), { recursive: true });
        await writeFile(join(partial, "inner", "file"), content);
        if (fails) throw new Error("the disk is full");
      });
    await assert.rejects(fill("a", true), /the disk is full/);
    assert.deepEqual(steps(dir), [], "what was written of it is gone");
    await fill("b");
    await assert.rejects(fill("c", true), /the disk is full/);
    assert.equal(readFileSync(join(folder, "inner", "file"), "utf8"), "b");
    await fill("d");
    assert.equal(readFileSync(join(folder, "inner", "file"), "utf8"), "d");
    assert.deepEqual(steps(dir), ["checkpoint-1"]);
  });
});

test("what a stopped process left is cleared away, and what it was replacing put back", async () => {
  await inFolder(async (dir) => {
    for (const name of ["checkpoint-1", "checkpoint-2", ".partial-checkpoint-3", ".deleted-checkpoint-0"])
      make(dir, name);
    make(dir, ".replaced-checkpoint-2", "old");
    make(dir, ".replaced-checkpoint-3", "old");
    make(dir, "kept");
    await tidyCheckpoints(dir);
    assert.deepEqual(steps(dir), ["checkpoint-1", "checkpoint-2", "checkpoint-3", "kept"]);
    assert.equal(readFileSync(join(dir, "checkpoint-2", "file"), "utf8"), "checkpoint-2");
    assert.equal(readFileSync(join(dir, "checkpoint-3", "file"), "utf8"), "old");
    await tidyCheckpoints(join(dir, "none"));
  });
});

test("the oldest go first; the newest and the best stay", async () => {
  const left = async (limit: number | null, best: number | null): Promise<string[]> =>
    inFolder(async (dir) => {
      for (const step of [5, 10, 15, 20]) make(dir, `checkpoint-${step}`);
      await removeOldCheckpoints(dir, limit, best === null ? null : checkpointFolder(dir, best));
      return steps(dir).map((name) => name.replace("checkpoint-", ""));
    });
  assert.deepEqual(await left(null, null), ["10", "15", "20", "5"]);
  assert.deepEqual(await left(2, null), ["15", "20"]);
  assert.deepEqual(await left(2, 5), ["20", "5"]);
  assert.deepEqual(await left(1, 10), ["10", "20"]);
  assert.deepEqual(await left(1, 20), ["20"]);
  assert.deepEqual(await left(3, 5), ["15", "20", "5"]);
  assert.deepEqual(await left(9, 5), ["10", "15", "20", "5"]);
});

test("a run into the folder of an earlier one keeps its own checkpoints", async () => {
  await inFolder(async (dir) => {
    make(dir, "checkpoint-500", "old", 3600);
    make(dir, "checkpoint-400", "old", 7200);
    make(dir, "checkpoint-10");
    await removeOldCheckpoints(dir, 2, null);
    assert.deepEqual(steps(dir), ["checkpoint-10", "checkpoint-500"]);
    await keepOnly(dir, checkpointFolder(dir, 10));
    assert.deepEqual(steps(dir), ["checkpoint-10"]);
  });
});
