import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Dataset } from "./dataset.ts";

const numbers = Dataset.fromList(Array.from({ length: 10 }, (_, n) => ({ n })));
const values = (dataset: Dataset<{ n: number }>): number[] => [...dataset].map(({ n }) => n);

test("rows by index, and where they came from", () => {
  assert.equal(numbers.length, 10);
  assert.deepEqual(numbers.get(0), { n: 0 });
  assert.deepEqual(numbers.get(-1), { n: 9 });
  assert.equal(numbers.where(3), "row 3");
  for (const index of [10, -11, 1.5, Number.NaN])
    assert.throws(() => numbers.get(index), /expected an integer below 10/);
});

test("map, filter and select make new data sets that remember their rows' origin", () => {
  const doubled = numbers.map(({ n }, index) => ({ twice: 2 * n + index }));
  assert.deepEqual(doubled.get(2), { twice: 6 });
  assert.deepEqual(doubled.columnNames, ["twice"]);
  const odd = numbers.filter(({ n }) => n % 2 === 1);
  assert.deepEqual(values(odd), [1, 3, 5, 7, 9]);
  assert.equal(odd.where(1), "row 3");
  assert.deepEqual(values(odd.select([4, 0, -1])), [9, 1, 9]);
  assert.deepEqual([...odd.located()][4], { row: { n: 9 }, where: "row 9" });
  assert.throws(() => odd.select([5]), RangeError);
  assert.deepEqual(Dataset.fromList([{ a: 1 }, { b: 2, a: 3 }]).columnNames, ["a", "b"]);
});

test("shuffling is by the seed alone, and loses nothing", () => {
  assert.deepEqual(values(numbers.shuffle(1)), values(numbers.shuffle(1)));
  assert.notDeepEqual(values(numbers.shuffle(1)), values(numbers.shuffle(2)));
  assert.deepEqual(values(numbers.shuffle(1)).sort(), values(numbers));
});

test("splits: by share, by number, in order, and those that leave a side empty", () => {
  for (const [testSize, size] of [
    [0.25, 3],
    [0.01, 1],
    [4, 4],
  ] as const) {
    const { train, test: held } = numbers.trainTestSplit({ testSize });
    assert.equal(held.length, size);
    assert.deepEqual([...values(train), ...values(held)].sort(), values(numbers));
    assert.deepEqual(values(numbers.trainTestSplit({ testSize, seed: 42 }).test), values(held));
  }
  assert.deepEqual(values(numbers.trainTestSplit({ testSize: 2, shuffle: false }).test), [8, 9]);
  for (const testSize of [0, 1.5, 10, -1, Number.NaN, 0.99]) {
    assert.throws(() => numbers.trainTestSplit({ testSize }), /testSize: found .* of 10 rows; expected a share/);
  }
  assert.throws(() => Dataset.fromList([{}]).trainTestSplit({ testSize: 0.5 }), /a data set of two rows or more/);
});

test("files", async () => {
  const folder = await mkdtemp(join(tmpdir(), "dataset-"));
  try {
    const [a, b, c] = ["a.jsonl", "b.jsonl", "c.json"].map((name) => join(folder, name)) as [string, string, string];
    await writeFile(a, '{"n": 1}\n\n{"n": 2}\n');
    await writeFile(b, '{"n": 3}');
    await writeFile(c, '[{"n": 4}]');
    const lines = await Dataset.fromJsonl([a, b]);
    assert.deepEqual([...lines], [{ n: 1 }, { n: 2 }, { n: 3 }]);
    assert.equal(
      lines
        .shuffle(3)
        .filter(({ n }) => n === 2)
        .where(0),
      `${a}:3`,
    );
    assert.deepEqual([...(await Dataset.fromJsonl(b))], [{ n: 3 }]);
    assert.deepEqual([...(await Dataset.fromJson(c))], [{ n: 4 }]);
    await writeFile(a, "oops");
    await assert.rejects(Dataset.fromJsonl(a), /a\.jsonl:1: line/);
  } finally {
    await rm(folder, { recursive: true });
  }
});
