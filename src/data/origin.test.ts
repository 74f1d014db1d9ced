import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import { rewardPairs } from "../train/reward/data.ts";
import { promptRows } from "../train/rl/prompts.ts";
import { Dataset } from "./dataset.ts";
import { tokenizePreferences, tokenizePrompts, tokenizeUnpaired } from "./preference.ts";
import { prepareDataset } from "./prepare.ts";
import { tokenizeRows } from "./recipes.ts";
import { StreamingDataset } from "./streaming.ts";

const tokenizer = await Tokenizer.fromFolder(`${FIXTURES}gpt2`);
const folder = await mkdtemp(join(tmpdir(), "origin-"));
after(() => rm(folder, { recursive: true }));
async function write(name: string, text: string): Promise<string> {
  await writeFile(join(folder, name), text);
  return join(folder, name);
}
const nothing = await write("nothing.jsonl", "\n");
const two = await write("two.jsonl", '{"text": "a"}\n{"text": "b"}\n');
const message = (path: string, found: string) => ({ name: "FormatError", file: path, found });

test("a file without rows is named, and what its format's rows are, wherever rows are needed", async () => {
  const empty = await Dataset.load(nothing);
  const needing = [
    () => tokenizeRows(empty.located(), tokenizer),
    () => tokenizeRows(empty.map(() => ({ text: "a" })).located(), tokenizer),
    () => tokenizeRows(empty.trainOnResponsesOnly().shuffle(1).located(), tokenizer),
    () => tokenizePreferences(empty.located(), tokenizer),
    () => tokenizeUnpaired(empty.located(), tokenizer),
    () => tokenizePrompts(empty.located(), tokenizer),
    () => rewardPairs(empty, tokenizer, null),
    () => promptRows(empty, { owner: "GRPOTrainer", tokenizer, maxPromptLength: null, chatTemplateKwargs: {} }),
  ];
  for (const run of needing) assert.throws(run, message(nothing, "no rows"), String(run));
  const settings = { cacheDir: null, workers: 0 };
  const streamed = (await StreamingDataset.load(nothing)).map((row) => row).trainOnResponsesOnly();
  for (const source of [nothing, empty, streamed, await streamed.toDataset(), await Dataset.fromJsonl(nothing)]) {
    await assert.rejects(prepareDataset(source, tokenizer, {}, settings), message(nothing, "no rows"));
  }
  for (const [name, text, expected] of [
    ["nothing.jsonl", "", "at least one (a JSON object on each line)"],
    ["nothing.json", "[]", "at least one (an array of objects, or an object on each line)"],
    ["nothing.csv", "text\n", "at least one (a line of column names, then one for each row)"],
  ] as const) {
    const path = await write(name, text);
    await assert.rejects(prepareDataset(path, tokenizer, {}, settings), { file: path, expected });
  }
});

test("of several files the first ones are named; rows made in memory come from none", async () => {
  const files = await Promise.all(["a", "b", "c", "d"].map((name) => write(`${name}.jsonl`, "")));
  const dataset = (await Dataset.load(files.slice(0, 2))).concatenate(await Dataset.load(files.slice(2)));
  const named = `${files.slice(0, 3).join(", ")}, … (4 files)`;
  assert.throws(() => tokenizeRows(dataset.located(), tokenizer), message(named, "no rows"));
  assert.throws(() => tokenizeRows(Dataset.fromList([]).located(), tokenizer), {
    message: "data set: found no rows; expected at least one",
  });
});

test("rows that a filter or a part of a split leaves out are told from those that were never there", async () => {
  const dataset = await Dataset.load(two);
  const expected = "a filter, or a part of a split, that leaves at least one";
  for (const left of [
    dataset.filter(() => false),
    dataset.take(1).skip(1),
    await Dataset.load(two, { split: "train[2:]" }),
    dataset.map(() => ({ text: [] as string[] }), { batched: true }),
  ]) {
    const found = { ...message(two, "none left of 2 rows"), expected };
    assert.throws(() => tokenizeRows(left.located(), tokenizer), found);
  }
  // Of rows that are streamed nobody has counted how many there were.
  const streamed = (await StreamingDataset.load(two)).filter(() => false);
  await assert.rejects(prepareDataset(streamed, tokenizer, {}, { cacheDir: null, workers: 0 }), {
    file: two,
    expected: `at least one (a JSON object on each line), and ${expected}`,
  });
});
