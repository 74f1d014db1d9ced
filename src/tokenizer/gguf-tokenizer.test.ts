import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type ExpectedTokenizer, readFixture } from "../testing/tokenizer-fixtures.ts";
import { tokenizerFromGguf } from "./gguf-tokenizer.ts";
import { Tokenizer } from "./tokenizer.ts";
import type { AddedToken } from "./tokenizer-json.ts";

interface FixtureJson {
  added_tokens: AddedToken[];
  model: { vocab: Record<string, number>; merges: [string, string][] };
}

/** The metadata llama.cpp's converter would write for a fixture's tokenizer. */
function metadataOf(name: string, more: Record<string, unknown>): Record<string, unknown> {
  const { model, added_tokens } = readFixture<FixtureJson>(`${name}/tokenizer.json`);
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(model.vocab)) tokens[id] = token;
  for (const { id, content } of added_tokens) tokens[id] = content;
  const types: number[] = tokens.map((token) => (/^<0x..>$/.test(token) ? 6 : 1));
  for (const { id, special } of added_tokens) types[id] = special ? 3 : 4;
  return { "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": Int32Array.from(types), ...more };
}

function byteLevel(name: string, pre: string, more: Record<string, unknown> = {}): Record<string, unknown> {
  const merges = readFixture<FixtureJson>(`${name}/tokenizer.json`).model.merges.map((merge) => merge.join(" "));
  return metadataOf(name, {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": pre,
    "tokenizer.ggml.merges": merges,
    ...more,
  });
}

for (const [name, pre, bos] of [
  ["gpt2", "gpt-2", null],
  ["gpt2", "default", null],
  ["smollm", "smollm", null],
  ["qwen2", "qwen2", null],
  ["llama3", "llama-bpe", 420],
] as const) {
  test(`byte-level vocabulary ${name} with pre-tokenizer ${pre}: ids and decodings as from its tokenizer.json`, () => {
    const tokenizer = tokenizerFromGguf(
      byteLevel(name, pre, bos === null ? {} : { "tokenizer.ggml.bos_token_id": bos }),
    );
    const { encode, decode } = readFixture<ExpectedTokenizer>(`${name}/expected.json`);
    for (const { text, ids, special = ids } of encode) assert.deepEqual(tokenizer.encode(text), special, text);
    for (const { ids, text } of decode) assert.equal(tokenizer.decode(ids), text);
  });
}

const SPM_SPACES = ["  ", "   "];

/** Llama-2's fixture as SentencePiece has it: scores that fall along the merges, and (as Gemma's) runs of spaces. */
function sentencePiece(more: Record<string, unknown> = {}): Record<string, unknown> {
  const metadata = metadataOf("llama2", {});
  const merges = readFixture<FixtureJson>("llama2/tokenizer.json").model.merges;
  const tokens = (metadata["tokenizer.ggml.tokens"] as string[]).slice(0, 620);
  const types = [...(metadata["tokenizer.ggml.token_type"] as Int32Array).slice(0, 620)];
  const scores = tokens.map(() => -1000);
  merges.forEach(([a, b], rank) => {
    scores[tokens.indexOf(a + b)] = -rank;
  });
  types[0] = 2;
  for (const spaces of SPM_SPACES) {
    tokens.push(spaces);
    types.push(4);
    scores.push(-1000);
  }
  tokens.push("<turn>", "<tool>");
  types.push(3, 4);
  scores.push(-1000, -1000);
  return {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": types,
    "tokenizer.ggml.scores": Float32Array.from(scores),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    ...more,
  };
}

/** SentencePiece BPE by its definition: join the neighbours that make the piece of highest score, leftmost first. */
function referenceSentencePiece(text: string, metadata: Record<string, unknown>): string[] {
  const tokens = metadata["tokenizer.ggml.tokens"] as string[];
  const scores = metadata["tokenizer.ggml.scores"] as Float32Array;
  const types = metadata["tokenizer.ggml.token_type"] as number[];
  const score = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (types[id] === 1) score.set(token, scores[id]!);
    // Runs of spaces are put together before anything else.
    if (types[id] === 4 && token.trim() === "") score.set("▁".repeat(token.length), 1000 - id);
  });
  const symbols = [...text.replaceAll(" ", "▁")];
  for (;;) {
    let best = -1;
    let bestScore = Number.NEGATIVE_INFINITY;
    for (let i = 0; i + 1 < symbols.length; i++) {
      const s = score.get(symbols[i]! + symbols[i + 1]!) ?? Number.NEGATIVE_INFINITY;
      if (s > bestScore) [best, bestScore] = [i, s];
    }
    if (best === -1) break;
    symbols.splice(best, 2, symbols[best]! + symbols[best + 1]!);
  }
  return symbols.flatMap((symbol) =>
    score.has(symbol)
      ? [symbol]
      : [...Buffer.from(symbol)].map((byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
  );
}

test("SentencePiece vocabulary: pieces by scores, bytes for what it lacks, spaces in front or not", () => {
  for (const spacePrefix of [true, false]) {
    const metadata = sentencePiece({ "tokenizer.ggml.add_space_prefix": spacePrefix });
    const tokenizer = tokenizerFromGguf(metadata);
    let checked = 0;
    for (const { text } of readFixture<ExpectedTokenizer>("llama2/expected.json").encode) {
      if (/<\/?s>|<unk>/.test(text) || text === "") continue;
      const ids = tokenizer.encode(text);
      assert.equal(ids[0], 1);
      const found = ids.slice(1).map((id) => tokenizer.idToToken(id));
      assert.deepEqual(found, referenceSentencePiece((spacePrefix ? " " : "") + text, metadata), text);
      // A "▁" of the text is a space from then on.
      assert.equal(tokenizer.decode(ids, { skipSpecialTokens: true }), text.replaceAll("▁", " "));
      checked++;
    }
    assert.ok(checked > 40);
    const [turn, tool] = [tokenizer.tokenToId("<turn>"), tokenizer.tokenToId("<tool>")];
    assert.deepEqual(tokenizer.encode("<turn><tool>", { addSpecialTokens: false }), [turn, tool]);
    assert.equal(tokenizer.decode([turn!, tool!], { skipSpecialTokens: true }), "<tool>");
  }
});

test("flags, special tokens and the chat template", () => {
  const chat = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
  const special = {
    "tokenizer.ggml.bos_token_id": { type: "uint32", value: 1 },
    "tokenizer.ggml.eos_token_id": 2n,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.chat_template": chat,
  };
  const tokenizer = tokenizerFromGguf(new Map(Object.entries(byteLevel("smollm", "smollm", special))));
  assert.equal(tokenizer.bosToken, "<|im_start|>");
  assert.equal(tokenizer.eosTokenId, 2);
  assert.equal(tokenizer.padTokenId, 2);
  assert.equal(tokenizer.chatTemplate, chat);
  assert.deepEqual(tokenizer.encode("a"), tokenizer.encode("a", { addSpecialTokens: false }));
  assert.deepEqual(tokenizer.applyChatTemplate([{ role: "user", content: "a" }]), [1, ...tokenizer.encode("a"), 2]);

  const flags = { ...special, "tokenizer.ggml.add_bos_token": true, "tokenizer.ggml.add_eos_token": true };
  const both = tokenizerFromGguf(byteLevel("smollm", "smollm", flags));
  assert.deepEqual(both.encode("a"), [1, ...tokenizer.encode("a"), 2]);
  const without = tokenizerFromGguf(sentencePiece({ "tokenizer.ggml.add_bos_token": false }));
  assert.notEqual(without.encode("a")[0], 1);
});

test("savePretrained writes a folder that gives the same tokenizer", async () => {
  const folder = await mkdtemp(join(tmpdir(), "gguf-tokenizer-"));
  try {
    for (const metadata of [sentencePiece(), byteLevel("qwen2", "qwen2", { "tokenizer.chat_template": "x" })]) {
      const tokenizer = tokenizerFromGguf(metadata);
      await tokenizer.savePretrained(folder);
      const again = await Tokenizer.fromFolder(folder);
      const text = "It's  naïve 漢字 <|im_end|> 123\n\n";
      assert.deepEqual(again.encode(text), tokenizer.encode(text));
      assert.equal(again.chatTemplate, tokenizer.chatTemplate);
      assert.deepEqual(again.specialTokens, tokenizer.specialTokens);
    }
    assert.ok((await readdir(folder)).includes("tokenizer_config.json"));
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("metadata that cannot be used is refused, with the key and what would work", () => {
  const read =
    (change: object, base = byteLevel("gpt2", "gpt-2")) =>
    () =>
      tokenizerFromGguf({ ...base, ...change }, "m.gguf");
  assert.throws(
    read({ "tokenizer.ggml.model": "bert" }),
    /m\.gguf: metadata tokenizer\.ggml\.model: found "bert"; expected "gpt2"/,
  );
  assert.throws(read({ "tokenizer.ggml.pre": "lama-bpe" }), /found "lama-bpe"; expected .*\(nearest: llama-bpe\)/);
  assert.throws(read({ "tokenizer.ggml.pre": "constructor" }), /found "constructor"/);
  assert.throws(read({ "tokenizer.ggml.merges": undefined }), /merges: found nothing/);
  assert.throws(read({ "tokenizer.ggml.tokens": [1] }), /tokens: found \[1\]/);
  assert.throws(read({ "tokenizer.ggml.token_type": [1] }), /token_type: found \[1\]; expected 420 numbers/);
  assert.throws(read({ "tokenizer.ggml.eos_token_id": 420 }), /eos_token_id: found 420; expected an id below 420/);
  assert.throws(
    read({ "tokenizer.ggml.add_bos_token": true }),
    /bos_token_id: found nothing; expected an id, as bos_token/,
  );
  assert.throws(read({ "tokenizer.ggml.scores": undefined }, sentencePiece()), /scores: found nothing/);
  assert.throws(read({ "tokenizer.ggml.scores": [1] }, sentencePiece()), /scores: found 1 numbers/);
});
