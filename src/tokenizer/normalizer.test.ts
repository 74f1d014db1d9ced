import assert from "node:assert/strict";
import { test } from "node:test";
import { Rng } from "../util/rng.ts";
import { Normalizer } from "./normalizer.ts";
import type { Component } from "./tokenizer-json.ts";

const NORMALIZERS: Component[] = [
  { type: "NFC" },
  { type: "NFD" },
  { type: "NFKC" },
  { type: "Lowercase" },
  { type: "StripAccents" },
  { type: "Prepend", prepend: "▁▁" },
  { type: "Replace", pattern: { String: " " }, content: "▁" },
  { type: "Replace", pattern: { Regex: "a+" }, content: "$&$1" },
  { type: "Replace", pattern: { String: "b" }, content: "" },
];

test("the aligned text is the normalised text, and its offsets run forward within the original", () => {
  const rng = new Rng(8);
  for (let round = 0; round < 3000; round++) {
    const normalizers = NORMALIZERS.filter(() => rng.below(3) === 0);
    const normalizer = new Normalizer({ type: "Sequence", normalizers });
    const text = Array.from({ length: rng.below(12) }, () => [..."ab Aé\u0301\u0327İﬁ가각🙂"][rng.below(14)]).join("");
    const { text: found, starts, ends } = normalizer.align(text);
    assert.equal(found, normalizer.apply(text));
    assert.equal(starts.length, found.length);
    for (let i = 0; i < found.length; i++) {
      assert.ok(starts[i]! >= 0 && starts[i]! < ends[i]! && ends[i]! <= text.length, `${text} ${i}`);
      if (i > 0) assert.ok(starts[i]! >= starts[i - 1]! && ends[i]! >= ends[i - 1]!);
    }
  }
});

test("each character leads back to those it was made of", () => {
  const origins = (component: Component, text: string): string[] => {
    const { text: found, starts, ends } = new Normalizer(component).align(text);
    return Array.from(found, (_, i) => text.slice(starts[i], ends[i]));
  };
  assert.deepEqual(origins({ type: "NFC" }, "xe\u0301y"), ["x", "e\u0301", "y"]);
  assert.deepEqual(origins({ type: "NFKC" }, "aﬁb"), ["a", "ﬁ", "ﬁ", "b"]);
  assert.deepEqual(origins({ type: "NFC" }, "\u1100\u1161\u11a8."), ["\u1100\u1161\u11a8", "."]);
  assert.deepEqual(origins({ type: "Prepend", prepend: "▁" }, "ab"), ["a", "a", "b"]);
  assert.deepEqual(origins({ type: "Replace", pattern: { String: "ab" }, content: "x" }, "cabd"), ["c", "ab", "d"]);
});

test("a Replace writes its content as it is, and nothing is made of nothing", () => {
  const replace = new Normalizer({ type: "Replace", pattern: { String: "a" }, content: "$&" });
  assert.equal(replace.apply("bab"), "b$&b");
  assert.equal(new Normalizer(null).apply("e\u0301"), "e\u0301");
  for (const component of NORMALIZERS) assert.equal(new Normalizer(component).apply(""), "");
  assert.throws(() => new Normalizer({ type: "Prepend" }), /Prepend\.prepend: found nothing/);
  assert.throws(() => new Normalizer({ type: "Replace" }), /Replace\.pattern: found nothing/);
});
