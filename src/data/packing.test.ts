import assert from "node:assert/strict";
import { test } from "node:test";
import { readFixture } from "../testing/tokenizer-fixtures.ts";
import { collate, type TokenizedRow } from "./collate.ts";
import { type PackingStrategy, pack } from "./packing.ts";

interface Case {
  strategy: PackingStrategy;
  maxSeqLength: number;
  lengths: number[];
  /** TRL's rows, as parts: [first token, length]. */
  packs: [number, number][][];
}

/** Token 1000·i + j is token j of row i. */
const sequence = (i: number, length: number): TokenizedRow => {
  const inputIds = Int32Array.from({ length }, (_, j) => 1000 * i + j);
  return { inputIds, labels: inputIds.slice() };
};

for (const { strategy, maxSeqLength, lengths, packs: expected } of readFixture<Case[]>("packing.json")) {
  test(`${strategy} of ${lengths.length} rows into ${maxSeqLength}: TRL's rows`, () => {
    const { packs, report } = pack(
      lengths.map((length, i) => sequence(i, length)),
      { strategy, maxSeqLength },
    );
    const found = packs.map((parts) => parts.map(({ inputIds }): [number, number] => [inputIds[0]!, inputIds.length]));
    if (strategy === "wrapped") {
      // TRL forgets the borders; the same tokens lie in the same rows.
      const shape = (rows: [number, number][][]) =>
        rows.map((row) => [row[0]![0], row.reduce((sum, [, n]) => sum + n, 0)]);
      assert.deepEqual(shape(found), shape(expected));
    } else {
      assert.deepEqual(found, expected);
    }
    const lost = strategy === "bfd" ? lengths.reduce((sum, n) => sum + Math.max(0, n - maxSeqLength), 0) : 0;
    const total = lengths.reduce((sum, n) => sum + n, 0) - lost;
    assert.deepEqual(report, {
      sequences: lengths.length,
      packs: expected.length,
      tokens: total,
      truncated: strategy === "bfd" ? lengths.filter((n) => n > maxSeqLength).length : 0,
      tokensCut: lost,
      efficiency: total / (expected.length * maxSeqLength),
    });
  });
}

test("no token is lost or trained twice, and each part's first label is −100", () => {
  for (const strategy of ["bfd_split", "wrapped"] as const) {
    const { packs } = pack([sequence(1, 10), sequence(2, 3), sequence(3, 0)], { strategy, maxSeqLength: 4 });
    const tokens = packs.flat().flatMap(({ inputIds }) => [...inputIds]);
    assert.deepEqual(tokens.sort(), [...sequence(1, 10).inputIds, ...sequence(2, 3).inputIds].sort());
    for (const { inputIds, labels } of packs.flat()) {
      assert.equal(labels[0], -100);
      assert.deepEqual([...labels.subarray(1)], [...inputIds.subarray(1)]);
    }
  }
});

test("packed rows and rows one by one have the same targets", () => {
  const rows = Array.from({ length: 30 }, (_, i) => sequence(i, 1 + ((i * 7) % 13)));
  const targets = (batches: TokenizedRow[][]) => {
    const { inputIds, labels, positions } = collate(batches);
    return [...inputIds].flatMap((id, t) => (labels[t] === -100 ? [] : [[id, labels[t], positions[t]]])).sort();
  };
  const alone = targets(rows.map((row) => [row]));
  assert.equal(
    alone.length,
    rows.reduce((sum, { inputIds }) => sum + inputIds.length - 1, 0),
  );
  assert.deepEqual(targets(pack(rows, { maxSeqLength: 16 }).packs), alone);
});

test("rows are packed a batch at a time, in order; the input is left as it was", () => {
  const rows = [sequence(0, 2), sequence(1, 1), sequence(2, 2), sequence(3, 1)];
  const { packs } = pack(rows, { maxSeqLength: 3, batchRows: 2 });
  assert.deepEqual(
    packs.map((parts) => parts.map(({ inputIds }) => inputIds[0])),
    [
      [0, 1000],
      [2000, 3000],
    ],
  );
  assert.equal(rows[1]!.labels[0], 1000);
});

test("options out of range", () => {
  assert.throws(() => pack([], { maxSeqLength: 0 }), /maxSeqLength: found 0/);
  assert.throws(() => pack([], { maxSeqLength: 8, batchRows: 1.5 }), /batchRows: found 1\.5/);
  assert.throws(
    () => pack([sequence(0, 1)], { maxSeqLength: 8, strategy: "ffd" as "bfd" }),
    /found "ffd"; expected one of bfd/,
  );
  assert.equal(pack([], { maxSeqLength: 8 }).report.efficiency, 0);
});
