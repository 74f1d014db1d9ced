import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Dataset } from "./dataset.ts";
import { StreamingDataset } from "./streaming.ts";

let given = 0;
const numbers = StreamingDataset.from(function* () {
  for (let n = 0; n < 100; n++) {
    given++;
    yield { n };
  }
});
async function values(dataset: StreamingDataset<{ n: number }>): Promise<number[]> {
  const list: number[] = [];
  for await (const { n } of dataset) list.push(n);
  return list;
}
const memory = Dataset.fromList(Array.from({ length: 100 }, (_, n) => ({ n })));

test("the same as a data set in memory, each time it is iterated", async () => {
  const streamed = numbers
    .filter(async ({ n }) => n % 3 === 0)
    .map(({ n }, index) => ({ n: n + index }))
    .skip(2)
    .take(5);
  const expected = memory
    .filter(({ n }) => n % 3 === 0)
    .map(({ n }, index) => ({ n: n + index }))
    .skip(2)
    .take(5);
  for (let i = 0; i < 2; i++) assert.deepEqual([...(await streamed.toDataset()).located()], [...expected.located()]);
});

test("batched map, columns, concatenation", async () => {
  const twice = numbers.take(5).map(({ n }) => ({ n: n.flatMap((value) => [value, -value]) }), {
    batched: true,
    batchSize: 2,
  });
  assert.deepEqual(await values(twice), [0, -0, 1, -1, 2, -2, 3, -3, 4, -4]);
  const dataset = numbers
    .take(1)
    .concatenate(numbers.skip(99))
    .renameColumn("n", "m")
    .map(({ m }) => ({ m, k: 1 }));
  assert.deepEqual([...(await dataset.removeColumns("k").toDataset())], [{ m: 0 }, { m: 99 }]);
});

test("no more rows are read than asked for", async () => {
  given = 0;
  await values(numbers.take(3));
  assert.equal(given, 3);
  await values(numbers.take(0));
  assert.equal(given, 3);
});

test("shuffling loses nothing, is by the seed alone, and local", async () => {
  const shuffled = await values(numbers.shuffle({ seed: 1, bufferSize: 10 }));
  assert.deepEqual(
    shuffled.toSorted((a, b) => a - b),
    await values(numbers),
  );
  assert.deepEqual(await values(numbers.shuffle({ seed: 1, bufferSize: 10 })), shuffled);
  assert.notDeepEqual(await values(numbers.shuffle({ seed: 2, bufferSize: 10 })), shuffled);
  // A row cannot come before those that fill the buffer until it is read.
  shuffled.forEach((n, at) => assert.ok(n - at <= 10));
  assert.deepEqual(
    (await values(numbers.shuffle())).toSorted((a, b) => a - b),
    await values(numbers),
  );
  assert.deepEqual(await values(numbers.shuffle({ bufferSize: 1 })), await values(numbers));
  assert.throws(() => numbers.shuffle({ bufferSize: 0 }), /bufferSize: found 0/);
});

test("files, parts of a split, and errors that name the row", async () => {
  const folder = await mkdtemp(join(tmpdir(), "streaming-"));
  try {
    const path = join(folder, "train.jsonl");
    await writeFile(path, '{"n": 0}\n{"n": 1}\n{"n": 2}\noops\n');
    const load = async (split?: string) =>
      (await StreamingDataset.load(path, split === undefined ? {} : { split })).toDataset();
    assert.deepEqual([...(await load("train[1:3]"))], [{ n: 1 }, { n: 2 }]);
    assert.equal((await load("train[1:3]")).where(0), `${path}:2`);
    await assert.rejects(load(), /train\.jsonl:4: line: found "oops"/);
    await assert.rejects(load("train[:50%]"), /rows that are streamed; expected numbers of rows/);
    await assert.rejects(load("test"), /split: found "test"/);
    const bad = (await StreamingDataset.load(path)).map((() => 7) as unknown as () => { n: number });
    await assert.rejects(values(bad), /train\.jsonl:1: map: found a function that returns 7/);
  } finally {
    await rm(folder, { recursive: true });
  }
});
