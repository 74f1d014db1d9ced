import assert from "node:assert/strict";
import { test } from "node:test";
import { Rng } from "../util/rng.ts";
import { PreTokenizer } from "./pre-tokenizer.ts";
import type { Component } from "./tokenizer-json.ts";

const split = (behavior: string, pattern: object, invert = false): Component => ({
  type: "Split",
  pattern,
  behavior,
  invert,
});

test("the five behaviours of Split, on the documentation's example", () => {
  const pieces = (behavior: string, invert = false): string[] =>
    new PreTokenizer(split(behavior, invert ? { Regex: "[a-z]+" } : { String: "-" }, invert)).split(
      "the-final--countdown",
      true,
    ).text;
  for (const invert of [false, true]) {
    assert.deepEqual(pieces("Removed", invert), ["the", "final", "countdown"]);
    assert.deepEqual(pieces("MergedWithPrevious").join("|"), "the-|final-|-|countdown");
    assert.deepEqual(pieces("MergedWithNext").join("|"), "the|-final|-|-countdown");
    assert.deepEqual(pieces("Contiguous").join("|"), "the|-|final|--|countdown");
  }
  assert.deepEqual(pieces("Isolated").join("|"), "the|-|final|-|-|countdown");
});

test("Metaspace puts its mark in front always, first or never, and splits before each", () => {
  const pieces = (options: object, text: string, first: boolean): string =>
    new PreTokenizer({ type: "Metaspace", ...options }).split(text, first).text.join("|");
  assert.equal(pieces({}, "a b  c", false), "▁a|▁b|▁|▁c");
  assert.equal(pieces({ split: false }, "a b", false), "▁a▁b");
  assert.equal(pieces({ prepend_scheme: "first" }, "a b", true), "▁a|▁b");
  assert.equal(pieces({ prepend_scheme: "first" }, "a b", false), "a|▁b");
  assert.equal(pieces({ prepend_scheme: "never" }, "a b", true), "a|▁b");
  assert.equal(pieces({ prepend_scheme: "always" }, " a", true), "▁a");
  assert.equal(pieces({ add_prefix_space: false }, "a", true), "a");
  assert.throws(() => pieces({ prepend_scheme: "last" }, "a", true), /prepend_scheme: found "last"/);
});

test("offsets lead back to the text, with prefixes that were put in counted apart", () => {
  const steps: Component[] = [
    split("Isolated", { Regex: "[ab]" }),
    split("Removed", { String: " " }),
    split("MergedWithNext", { Regex: "c+" }),
    { type: "Digits", individual_digits: false },
    { type: "Punctuation" },
    { type: "Whitespace" },
    { type: "WhitespaceSplit" },
    { type: "Metaspace" },
    { type: "Metaspace", split: false, prepend_scheme: "first" },
    { type: "ByteLevel", add_prefix_space: true, use_regex: false },
    { type: "ByteLevel", add_prefix_space: true },
  ];
  const rng = new Rng(4);
  for (let round = 0; round < 2000; round++) {
    const chosen = steps.slice(0, 9).filter(() => rng.below(4) === 0);
    if (rng.below(2) === 0) chosen.push(steps[9 + rng.below(2)]!);
    const text = Array.from({ length: rng.below(20) }, () => "abc 1½.▁-é🙂\n"[rng.below(12)]).join("");
    const first = rng.below(2) === 0;
    const pieces = new PreTokenizer({ type: "Sequence", pretokenizers: chosen }).split(text, first);
    let done = 0;
    pieces.text.forEach((piece, i) => {
      const [start, inserted] = [pieces.start[i]!, pieces.inserted[i]!];
      assert.ok(start >= done && piece.length > inserted - 1);
      const original = text.slice(start, start + piece.length - inserted);
      // Metaspace writes its mark for a space.
      assert.equal(piece.slice(inserted).replaceAll("▁", " "), original.replaceAll("▁", " "));
      assert.match(piece.slice(0, inserted), /^[ ▁]*$/);
      done = start + piece.length - inserted;
    });
    if (!chosen.some(({ type, behavior }) => type.startsWith("White") || behavior === "Removed")) {
      assert.equal(pieces.text.map((piece, i) => piece.slice(pieces.inserted[i]!)).join("").length, text.length);
    }
  }
});

test("ByteLevel is the last step, or an error", () => {
  const bytes = { type: "ByteLevel" };
  assert.equal(new PreTokenizer(bytes).byteLevel, true);
  assert.equal(new PreTokenizer(null).byteLevel, false);
  const sequence = { type: "Sequence", pretokenizers: [bytes, { type: "Digits" }] };
  assert.throws(() => new PreTokenizer(sequence), /found Digits after ByteLevel; expected ByteLevel as the last step/);
  assert.throws(() => new PreTokenizer({ type: "Sequence" }), /Sequence\.pretokenizers: found nothing/);
});
