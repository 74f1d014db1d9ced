import assert from "node:assert/strict";
import { test } from "node:test";
import { type ExpectedTokenizer, FIXTURES, readFixture, tokenizerNames } from "../testing/tokenizer-fixtures.ts";
import { Tokenizer } from "./tokenizer.ts";

const names = tokenizerNames();

test("there is a fixture of every layout", () => {
  assert.deepEqual(names, [
    "deepseek",
    "gemma",
    "gpt2",
    "llama2",
    "llama3",
    "metaspace",
    "mistral",
    "o200k",
    "qwen2",
    "smollm",
    "unigram",
  ]);
});

for (const name of names) {
  test(`${name}: ids, offsets and decodings equal Python's`, async () => {
    const tokenizer = await Tokenizer.fromFolder(FIXTURES + name);
    const expected = readFixture<ExpectedTokenizer>(`${name}/expected.json`);
    assert.ok(expected.encode.length > 50 && expected.decode.length > 50);
    for (const { text, ids, special = ids, decoded = text, skipped = text, offsets } of expected.encode) {
      const where = JSON.stringify(text.slice(0, 80));
      assert.deepEqual(tokenizer.encode(text, { addSpecialTokens: false }), ids, where);
      // A second time from the cache.
      assert.deepEqual(tokenizer.encode(text), special, where);
      assert.equal(tokenizer.decode(special), decoded, where);
      assert.equal(tokenizer.decode(Int32Array.from(special), { skipSpecialTokens: true }), skipped, where);
      // Python gives a composed character the offsets of its first part only; ours span all of it.
      if (name === "unigram" || text.normalize("NFKC") !== text) continue;
      const found = tokenizer.encodeWithOffsets(text);
      assert.deepEqual(found.ids, ids, where);
      assert.deepEqual(found.offsets, offsets.flat(), where);
    }
    for (const { ids, text } of expected.decode) assert.equal(tokenizer.decode(ids), text, `${ids}`);
  });

  test(`${name}: streamed decoding joins to the whole, and never ends in half a character`, async () => {
    const tokenizer = await Tokenizer.fromFolder(FIXTURES + name);
    const expected = readFixture<ExpectedTokenizer>(`${name}/expected.json`);
    const whole = (ids: number[]): string => tokenizer.decode(ids);
    // Runs of byte tokens that are not valid UTF-8 decode otherwise when streamed: see StreamDecoder.
    const byteFallback = ["gemma", "llama2", "metaspace", "mistral"].includes(name);
    const decoder = tokenizer.createStreamDecoder();
    for (const ids of [
      ...expected.encode.map(({ special, ids }) => special ?? ids),
      ...expected.decode.map(({ ids }) => ids),
    ]) {
      let text = "";
      for (const id of ids) {
        const part = decoder.push(id);
        assert.doesNotMatch(part, /\p{Surrogate}/u);
        text += part;
      }
      text += decoder.flush();
      if (byteFallback && whole(ids).includes("\ufffd")) continue;
      assert.equal(text, whole(ids));
    }
  });
}

test("composed characters keep offsets into the text as it was given", async () => {
  const tokenizer = await Tokenizer.fromFolder(`${FIXTURES}qwen2`);
  const text = "x e\u0301y \u1100\u1161\u11a8z";
  const { ids, offsets } = tokenizer.encodeWithOffsets(text);
  assert.deepEqual(ids, tokenizer.encode("x \u00e9y \uac01z"));
  const spans = ids.map((_, i) => text.slice(offsets[2 * i], offsets[2 * i + 1]));
  // é is one token of two bytes or more; y and z stand after what was composed.
  assert.ok(spans.some((span) => span.endsWith("e\u0301")));
  assert.ok(spans.includes("y"));
  assert.ok(spans.some((span) => span.endsWith("\u1100\u1161\u11a8")));
  assert.equal(spans.at(-1), "z");
  assert.equal(offsets.at(-1), text.length);
});

test("lone surrogates are read as U+FFFD", async () => {
  for (const name of names) {
    const tokenizer = await Tokenizer.fromFolder(FIXTURES + name);
    for (const [lone, replaced] of [
      ["\ud800", "\ufffd"],
      ["a\udc00b", "a\ufffdb"],
      ["\udc00\ud800", "\ufffd\ufffd"],
      ["\ud83d\ude42\ud83d", "\ud83d\ude42\ufffd"],
    ] as const) {
      assert.deepEqual(tokenizer.encode(lone), tokenizer.encode(replaced), name);
    }
  }
});

test("offsets of a Unigram model are refused, not made up", async () => {
  const tokenizer = await Tokenizer.fromFolder(`${FIXTURES}unigram`);
  assert.throws(() => tokenizer.encodeWithOffsets("text"), /expected one of BPE/);
});
