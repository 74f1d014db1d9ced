import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { after, beforeEach, test } from "node:test";
import { Dataset } from "./dataset.ts";
import { findDataFiles, type LoadOptions, splitOf } from "./files.ts";
import { StreamingDataset } from "./streaming.ts";

let folder = "";
const folders: string[] = [];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "files-"));
  folders.push(folder);
});
after(() => Promise.all(folders.map((path) => rm(path, { recursive: true }))));

async function write(...names: string[]): Promise<void> {
  for (const name of names) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), "{}\n");
  }
}
const find = async (source: string | string[] = folder, options: LoadOptions = {}): Promise<string[]> =>
  (await findDataFiles(source, options)).map(({ path, format }) => `${relative(folder, path)} ${format}`);

test("a folder's files of one format, in order, below it too, through links, without what only describes them", async () => {
  await write(
    "b.jsonl",
    "a.ndjson",
    "sub/c.jsonl.gz",
    "README.md",
    "dataset_infos.json",
    ".hidden/d.jsonl",
    ".e.jsonl",
  );
  await symlink(join(folder, "README.md"), join(folder, "z.jsonl"));
  assert.deepEqual(await find(), ["a.ndjson jsonl", "b.jsonl jsonl", "sub/c.jsonl.gz jsonl", "z.jsonl jsonl"]);
});

test("a file's format by its name, or as told; a list of files in its own order", async () => {
  await write("a.CSV", "b.json", "c.tsv.gz", "d.parquet", "e.dat");
  const paths = ["d.parquet", "c.tsv.gz", "b.json", "a.CSV"].map((name) => join(folder, name));
  assert.deepEqual(await find(paths), ["d.parquet parquet", "c.tsv.gz tsv", "b.json json", "a.CSV csv"]);
  assert.deepEqual(await find(join(folder, "e.dat"), { format: "jsonl" }), ["e.dat jsonl"]);
  await assert.rejects(find(join(folder, "e.dat")), /format: found "e\.dat"; expected a file that ends in \.jsonl/);
  await assert.rejects(find([]), /found no files/);
});

test("splits by the names of files and folders", () => {
  const splits = {
    "data/train-00000-of-00002.parquet": "train",
    "data/test_sft-00000-of-00001-abc.parquet": "test_sft",
    "validation-00000-of-00001.parquet": "validation",
    "train.jsonl": "train",
    "my_dev.csv": "validation",
    "eval/part1.jsonl": "test",
    "test/train_extra.jsonl": "train",
    "latest.jsonl": null,
    "constraint.jsonl": null,
  };
  for (const [path, split] of Object.entries(splits)) assert.equal(splitOf(path), split, path);
});

test("a folder of several splits: the one asked for, or an error that lists them", async () => {
  await write("train.jsonl", "test.jsonl", "notes.txt");
  assert.deepEqual(await find(folder, { split: "test" }), ["test.jsonl jsonl"]);
  await assert.rejects(find(), /split: found none; expected one of test, train/);
  await assert.rejects(
    find(folder, { split: "trian" }),
    /split: found "trian"; expected test, train \(nearest: train\)/,
  );
  await assert.rejects(find(join(folder, "train.jsonl"), { split: "test" }), /found "test"; expected train/);
  assert.deepEqual(await find(join(folder, "test.jsonl"), { split: "train" }), ["test.jsonl jsonl"]);
});

test("folders that cannot be read as one data set say why", async () => {
  await assert.rejects(find(), /data files: found none/);
  await write("a.arrow");
  await assert.rejects(find(), /found only \["a\.arrow"\]; expected .*to_parquet/);
  await write("a.jsonl", "b.csv");
  await assert.rejects(find(), /found files of jsonl and csv; expected files of one format/);
});

test("what is no path goes to the resolver, with the split", async () => {
  await write("data/train.jsonl", "data/test.jsonl");
  const asked: unknown[] = [];
  const resolve: LoadOptions["resolve"] = async (id, request) => {
    asked.push([id, request]);
    return join(folder, "data");
  };
  assert.deepEqual(await find("org/name", { resolve, split: "test" }), ["data/test.jsonl jsonl"]);
  assert.deepEqual(asked, [["org/name", { split: "test" }]]);
  await assert.rejects(
    find("org/name"),
    /org\/name: data set: found no such file or folder; expected a path, or a data/,
  );
  for (const path of ["./not/there", "not/there.jsonl", "there"])
    await assert.rejects(find(path, { resolve: async () => assert.fail() }), /found no such file or folder/);
  // A resolver's answer is a path: an id would go round in circles.
  await assert.rejects(find("org/name", { resolve: async () => "org/other" }), /ENOENT|org\/other/);
});

test("a repository of several data sets: one is chosen by its name", async () => {
  await write("main/train-00000-of-00001.jsonl", "main/test-00000-of-00001.jsonl", "more/train-00000-of-00001.jsonl");
  const resolve = async (): Promise<string> => folder;
  assert.deepEqual(await find("org/name", { resolve, split: "train", name: "main" }), [
    "main/train-00000-of-00001.jsonl jsonl",
  ]);
  await assert.rejects(find("org/name", { resolve, split: "train" }), /name: found none; expected one of main, more/);
  await assert.rejects(find("org/name", { resolve, name: "mian" }), /data files: found none/);
  // A folder of one's own is one data set.
  assert.equal((await find(folder, { split: "train" })).length, 2);
});

test("by default ids go to the hub", async () => {
  const before = { ...process.env };
  process.env.HF_HUB_OFFLINE = "1";
  process.env.HF_HOME = folder;
  try {
    await assert.rejects(Dataset.load("org/name"), { name: "HubError", code: "not-cached" });
    await assert.rejects(StreamingDataset.load("org/name", { split: "train[:3]" }), { name: "HubError" });
  } finally {
    for (const name of ["HF_HUB_OFFLINE", "HF_HOME"]) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
});
