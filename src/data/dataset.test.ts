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

test("async functions: the same results, called one after the other", async () => {
  let running = 0;
  const slowly = async (n: number): Promise<number> => {
    assert.equal(running++, 0);
    await new Promise((resolve) => setImmediate(resolve));
    running--;
    return n;
  };
  const doubled = await numbers.map(async ({ n }) => ({ n: 2 * (await slowly(n)) }));
  assert.deepEqual(values(doubled), values(numbers.map(({ n }) => ({ n: 2 * n }))));
  const odd = await numbers.filter(async ({ n }) => (await slowly(n)) % 2 === 1);
  assert.deepEqual(values(odd), [1, 3, 5, 7, 9]);
  await assert.rejects(
    numbers.map(async ({ n }) => {
      if (n === 3) throw new Error("three");
      return { n };
    }),
    /three/,
  );
});

test("batched map: columns in, columns out, of any length", async () => {
  const rows = Dataset.fromList<{ a: number; b?: string }>([{ a: 1, b: "x" }, { a: 2 }, { a: 3, b: "z" }]);
  const seen: unknown[] = [];
  const mapped = rows.map(
    (columns, indices) => {
      seen.push([columns, indices]);
      return { text: columns.a.map((a, i) => `${a}${columns.b![i]}`) };
    },
    { batched: true, batchSize: 2 },
  );
  assert.deepEqual(seen, [
    [{ a: [1, 2], b: ["x", null] }, [0, 1]],
    [{ a: [3], b: ["z"] }, [2]],
  ]);
  assert.deepEqual([...mapped], [{ text: "1x" }, { text: "2null" }, { text: "3z" }]);
  assert.equal(mapped.where(1), "row 1");
  const twice = await rows.map(async ({ a }) => ({ a: [...a, ...a] }), { batched: true });
  assert.deepEqual(twice.column("a"), [1, 2, 3, 1, 2, 3]);
  assert.equal(twice.where(4), "row 0 to row 2, mapped row 4");
  assert.equal(rows.map(() => ({}), { batched: true }).length, 0);
  const bad = (result: unknown, message: RegExp) =>
    assert.throws(() => rows.map(() => result as { a: number[] }, { batched: true }), message);
  bad([1], /row 0 to row 2: columns: found \[1\]; expected an object of columns/);
  bad({ a: [1, 2], b: [1] }, /found 1 values in column "b"; expected 2, as in "a"/);
  bad({ a: "text" }, /found "text" in column "a"; expected an array/);
  assert.throws(() => rows.map(() => ({}), { batched: true, batchSize: 0 }), /batchSize: found 0/);
});

test("a map that returns no row is named", () => {
  const nothing = (() => undefined) as unknown as () => { n: number };
  assert.throws(() => numbers.map(nothing), /row 0: map: found a function that returns nothing; expected a row/);
});

test("take, skip, concatenate, columns", () => {
  assert.deepEqual(values(numbers.take(2)), [0, 1]);
  assert.deepEqual(values(numbers.skip(8)), [8, 9]);
  assert.equal(numbers.skip(8).where(0), "row 8");
  assert.equal(numbers.take(99).length, 10);
  assert.equal(numbers.skip(99).length, 0);
  assert.throws(() => numbers.take(-1), /count: found -1/);
  assert.deepEqual(values(numbers.take(1).concatenate(numbers.skip(9), numbers.take(1))), [0, 9, 0]);
  const rows = Dataset.fromColumns({ a: [1, 2], b: [3, 4], c: [5, 6] });
  assert.deepEqual([...rows.removeColumns(["a", "b"])], [{ c: 5 }, { c: 6 }]);
  assert.deepEqual([...rows.renameColumn("b", "x").take(1)], [{ a: 1, x: 3, c: 5 }]);
  assert.deepEqual(rows.renameColumn("b", "x").columnNames, ["a", "x", "c"]);
  assert.deepEqual(rows.column("b"), [3, 4]);
  assert.throws(() => rows.removeColumns("d"), /column: found "d"; expected one of a, b, c/);
  assert.throws(() => rows.renameColumn("a", "b"), /row 0: rename: found "b" already there/);
  assert.throws(() => rows.renameColumn("d", "b"), /column: found "d"/);
});

test("a data set is marked for responses only, and what is made of it too", () => {
  const marked = numbers.trainOnResponsesOnly({ responsePart: "A:" });
  assert.equal(numbers.responses, null);
  for (const made of [
    marked.map((row) => row),
    marked.shuffle(),
    marked.take(2),
    marked.trainTestSplit({ testSize: 1 }).test,
  ])
    assert.deepEqual(made.responses, { responsePart: "A:" });
});

test("load: formats, splits and their parts; rows written and read again are the same", async () => {
  const folder = await mkdtemp(join(tmpdir(), "dataset-"));
  try {
    const path = (name: string): string => join(folder, name);
    const rows = Array.from({ length: 20 }, (_, i) => ({ i, text: `é\u2028"${i}` }));
    await Dataset.fromList(rows).toJsonl(path("train.jsonl"));
    await writeFile(path("test.jsonl"), '{"i": -1}\n');
    assert.deepEqual([...(await Dataset.load(path("train.jsonl")))], rows);
    const load = async (split: string): Promise<unknown[]> => (await Dataset.load(folder, { split })).column("i");
    assert.deepEqual(await load("test"), [-1]);
    assert.deepEqual(await load("train[:3]"), [0, 1, 2]);
    assert.deepEqual(await load("train[-2:]"), [18, 19]);
    assert.deepEqual(await load("train[10%:20%]"), [2, 3]);
    assert.deepEqual(await load("train[15:99]"), [15, 16, 17, 18, 19]);
    assert.deepEqual(await load("train[5:2]"), []);
    await assert.rejects(load("train[3]"), /split: found "train\[3\]"; expected "train\[:1000\]"/);
    await writeFile(path("a.csv"), "i,text\n1,one\n");
    assert.deepEqual([...(await Dataset.fromCsv(path("a.csv")))], [{ i: "1", text: "one" }]);
    await writeFile(path("lines.json"), '\ufeff {"i": 1}\n{"i": 2}\n');
    assert.deepEqual([...(await Dataset.fromJson(path("lines.json")))], [{ i: 1 }, { i: 2 }]);
    await writeFile(path("array.json"), '\n[{"i": 1}]');
    assert.deepEqual([...(await Dataset.load(path("array.json")))], [{ i: 1 }]);
  } finally {
    await rm(folder, { recursive: true });
  }
});
