import assert from "node:assert/strict";
import { test } from "node:test";
import { Rng } from "../util/rng.ts";
import { BpeModel } from "./bpe-model.ts";
import { PairTable } from "./pair-table.ts";

/** The definition: while any neighbours have a merge, merge the pair of lowest rank, the leftmost of equals. */
function referenceBpe(piece: string, merges: [string, string][]): string[] {
  const rank = new Map(merges.map(([a, b], i) => [`${a} ${b}`, i]));
  const symbols = [...piece];
  for (;;) {
    let best = -1;
    let bestRank = Number.POSITIVE_INFINITY;
    for (let i = 0; i + 1 < symbols.length; i++) {
      const r = rank.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Number.POSITIVE_INFINITY;
      if (r < bestRank) [best, bestRank] = [i, r];
    }
    if (best === -1) return symbols;
    symbols.splice(best, 2, symbols[best]! + symbols[best + 1]!);
  }
}

test("merges equal the definition's, on random vocabularies and pieces", () => {
  const rng = new Rng(11);
  for (let round = 0; round < 40; round++) {
    const tokens = ["a", "b", "c", "é"];
    const merges: [string, string][] = [];
    for (let i = 0; i < 30; i++) {
      const [left, right] = [tokens[rng.below(tokens.length)]!, tokens[rng.below(tokens.length)]!];
      if (tokens.includes(left + right) && merges.some(([a, b]) => a === left && b === right)) continue;
      if (!tokens.includes(left + right)) tokens.push(left + right);
      merges.push([left, right]);
    }
    const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
    const model = new BpeModel(
      { type: "BPE", vocab, merges: round % 2 === 0 ? merges : merges.map((m) => m.join(" ")) },
      false,
    );
    for (let i = 0; i < 20; i++) {
      const piece = Array.from({ length: rng.below(i === 0 ? 400 : 30) }, () => "abcé"[rng.below(4)]).join("");
      const ids: number[] = [];
      const lengths: number[] = [];
      model.encodeWithLengths(piece, ids, lengths);
      const expected = referenceBpe(piece, merges);
      assert.deepEqual(
        ids.map((id) => tokens[id]),
        piece === "" ? [] : expected,
      );
      assert.deepEqual(
        lengths,
        ids.map((id) => Buffer.byteLength(tokens[id]!)),
      );
      const again: number[] = [];
      model.encode(piece, again);
      model.encode(piece, again);
      assert.deepEqual(again, [...ids, ...ids]);
    }
  }
});

test("a character outside the vocabulary: its bytes, else the unknown token, else nothing", () => {
  const bytes = { "<0xC3>": 2, "<0xA9>": 3 };
  const encode = (options: object, piece: string): number[] => {
    const out: number[] = [];
    new BpeModel({ type: "BPE", vocab: { "<unk>": 0, a: 1, ...bytes }, merges: [], ...options }, false).encode(
      piece,
      out,
    );
    return out;
  };
  assert.deepEqual(encode({ byte_fallback: true, unk_token: "<unk>" }, "aéa"), [1, 2, 3, 1]);
  assert.deepEqual(encode({ byte_fallback: true, unk_token: "<unk>" }, "aèa"), [1, 0, 1]);
  assert.deepEqual(encode({ unk_token: "<unk>" }, "xya"), [0, 0, 1]);
  assert.deepEqual(encode({ unk_token: "<unk>", fuse_unk: true }, "xyazé"), [0, 1, 0]);
  assert.deepEqual(encode({}, "xay"), [1]);
  assert.deepEqual(encode({}, ""), []);
});

test("a piece of a million characters without a break takes moments", () => {
  const model = new BpeModel({ type: "BPE", vocab: { a: 0, aa: 1, aaaa: 2 }, merges: ["a a", "aa aa"] }, true);
  const out: number[] = [];
  model.encode("a".repeat(1_000_001), out);
  assert.equal(out.length, 250_001);
  assert.equal(out.at(-1), 0);
});

test("malformed models are refused, with the field", () => {
  const make = (model: object) => () =>
    new BpeModel({ type: "BPE", vocab: { a: 0, b: 1 }, merges: [], ...model }, false);
  assert.throws(make({ vocab: { a: -1 } }), /model\.vocab\["a"\]: found -1/);
  assert.throws(make({ vocab: { a: 1e300 } }), /model\.vocab/);
  assert.throws(make({ vocab: [] }), /model\.vocab: found \[\]/);
  assert.throws(make({ merges: null }), /model\.merges: found null/);
  assert.throws(make({ merges: ["a b"] }), /model\.merges\[0\]: found "a b"; expected two tokens/);
  assert.throws(make({ merges: ["ab"] }), /model\.merges\[0\]/);
  assert.throws(make({ merges: [["a"]] }), /model\.merges\[0\]/);
  assert.throws(make({ merges: [7] }), /model\.merges\[0\]: found 7/);
  assert.throws(make({ end_of_word_suffix: "</w>" }), /end_of_word_suffix/);
});

test("PairTable finds what was put in, and nothing else", () => {
  const rng = new Rng(2);
  const table = new PairTable(5000);
  const map = new Map<string, number>();
  for (let i = 0; i < 5000; i++) {
    const [a, b] = [rng.below(300), rng.below(300)];
    table.set(a, b, i, i + 1);
    map.set(`${a},${b}`, i);
  }
  for (let a = 0; a < 300; a++) {
    for (let b = 0; b < 300; b += 7) {
      const slot = table.find(a, b);
      const rank = map.get(`${a},${b}`);
      assert.equal(slot === -1 ? undefined : table.rank[slot], rank);
      if (slot !== -1) assert.equal(table.merged[slot], rank! + 1);
    }
  }
  assert.equal(new PairTable(0).find(0, 0), -1);
});
