import assert from "node:assert/strict";
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import { Tokenizer } from "./tokenizer.ts";

let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "tokenizer-"));
});
after(() => rm(folder, { recursive: true }));

const minimal = (more: object = {}): string =>
  JSON.stringify({
    model: { type: "BPE", vocab: { a: 0, b: 1, ab: 2, "<s>": 3, "<e>": 4, "<u>": 5 }, merges: ["a b"] },
    ...more,
  });

test("special tokens, their ids and sizes", async () => {
  const tokenizer = await Tokenizer.fromFolder(`${FIXTURES}llama3`);
  assert.equal(tokenizer.bosToken, "<|begin_of_text|>");
  assert.equal(tokenizer.bosTokenId, 420);
  assert.equal(tokenizer.eosToken, "<|eot_id|>");
  assert.equal(tokenizer.eosTokenId, 424);
  assert.equal(tokenizer.padToken, null);
  assert.equal(tokenizer.padTokenId, null);
  assert.equal(tokenizer.unkToken, null);
  assert.equal(tokenizer.vocabSize, 425);
  assert.deepEqual([...tokenizer.specialIds], [420, 421, 422, 423, 424]);
  assert.equal(tokenizer.tokenToId("<|eot_id|>"), 424);
  assert.equal(tokenizer.tokenToId("no such token"), null);
  assert.equal(tokenizer.idToToken(424), "<|eot_id|>");
  assert.equal(tokenizer.idToToken(425), null);
  assert.equal(tokenizer.decode([]), "");
  assert.equal(tokenizer.decode([425, -1, 2 ** 40]), "");
  assert.deepEqual(tokenizer.encodeBatch(["a", "b"]), [tokenizer.encode("a"), tokenizer.encode("b")]);
  assert.deepEqual(tokenizer.decodeBatch([tokenizer.encode("a b")], { skipSpecialTokens: true }), ["a b"]);
});

test("savePretrained writes the files back byte for byte", async () => {
  const source = join(folder, "source");
  await cp(`${FIXTURES}llama3`, source, { recursive: true });
  await writeFile(join(source, "tokenizer.model"), Buffer.from([0, 255, 10, 13, 0xc3]));
  await writeFile(join(source, "special_tokens_map.json"), "\ufeff{ }\r\n");
  await writeFile(join(source, "generation_config.json"), '{"eos_token_id": [421, 424]}');
  const tokenizer = await Tokenizer.fromFolder(source);
  assert.deepEqual(tokenizer.eosTokenIds, [424, 421]);
  const target = join(folder, "a", "b");
  const paths = await tokenizer.savePretrained(target);
  const names = [
    "chat_template.jinja",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
  ];
  assert.deepEqual((await readdir(target)).sort(), names);
  assert.deepEqual(
    paths.sort(),
    names.map((name) => join(target, name)),
  );
  for (const name of names)
    assert.deepEqual(await readFile(join(target, name)), await readFile(join(source, name)), name);
});

test("a chat template that was set is used, and saved", async () => {
  const tokenizer = await Tokenizer.fromFolder(`${FIXTURES}llama3`);
  assert.throws(() => {
    tokenizer.chatTemplate = "{% if %}";
  }, /does not parse/);
  const source = "{% for m in messages %}<{{ m.content }}>\n{% endfor %}";
  tokenizer.chatTemplate = source;
  assert.equal(tokenizer.applyChatTemplate([{ role: "user", content: "x" }], { tokenize: false }), "<x>\n");
  const target = join(folder, "template");
  await tokenizer.savePretrained(target);
  assert.equal(await readFile(join(target, "chat_template.jinja"), "utf8"), source);
  assert.equal((await Tokenizer.fromFolder(target)).chatTemplate, source);
});

test("chat templates by name, of the config, and none", () => {
  const config = {
    chat_template: [
      { name: "default", template: "plain" },
      { name: "tool_use", template: "tools" },
      { name: "rag", template: "rag {{ documents|length }}" },
    ],
  };
  const files = { "tokenizer.json": minimal(), "tokenizer_config.json": JSON.stringify(config) };
  const messages = [{ role: "user", content: "a" }];
  const tokenizer = Tokenizer.fromFiles(files);
  const text = (options: object): string => tokenizer.applyChatTemplate(messages, { ...options, tokenize: false });
  assert.equal(text({}), "plain");
  assert.equal(text({ tools: [{}] }), "tools");
  assert.equal(text({ chatTemplate: "rag", documents: [{}, {}] }), "rag 2");
  assert.equal(text({ chatTemplate: "{{ messages[0].content }}" }), "a");
  assert.throws(() => tokenizer.applyChatTemplate([]), /the conversation is empty/);
  const bare = Tokenizer.fromFiles({ "tokenizer.json": minimal() });
  assert.equal(bare.chatTemplate, null);
  assert.throws(() => bare.applyChatTemplate(messages), /chat template: found none .*set tokenizer\.chatTemplate/);
});

test("the config adds tokens, names special ones, and takes precedence over the older map", () => {
  const tokenizer = Tokenizer.fromFiles({
    "tokenizer.json": minimal(),
    "tokenizer_config.json": JSON.stringify({
      bos_token: { content: "<s>" },
      eos_token: "<e>",
      pad_token: "<nowhere>",
      added_tokens_decoder: { 7: { content: "<x>", special: true } },
    }),
    "special_tokens_map.json": JSON.stringify({ eos_token: "a", unk_token: { content: "<u>" } }),
  });
  assert.equal(tokenizer.bosTokenId, 3);
  assert.equal(tokenizer.eosTokenId, 4);
  assert.equal(tokenizer.unkTokenId, 5);
  assert.equal(tokenizer.padTokenId, null);
  assert.equal(tokenizer.vocabSize, 8);
  assert.deepEqual(tokenizer.encode("ab<s>a<x><e>"), [2, 3, 0, 7, 4]);
  assert.equal(tokenizer.decode([2, 3, 7, 0], { skipSpecialTokens: true }), "ab a");
});

test("files that cannot be used are refused, with the file, the field and what would work", async () => {
  const bad = (files: Record<string, string>) => () => Tokenizer.fromFiles(files);
  assert.throws(bad({}), /tokenizer\.json: file: found nothing; expected a tokenizer\.json/);
  assert.throws(bad({ "tokenizer.model": "x" }), /found nothing \(only tokenizer\.model\); expected .*AutoTokenizer/);
  assert.throws(bad({ "tokenizer.json": "{" }), /tokenizer\.json: contents: found .*; expected JSON/);
  assert.throws(bad({ "tokenizer.json": "[]" }), /tokenizer: found \[\]; expected a JSON object/);
  assert.throws(bad({ "tokenizer.json": "{}" }), /model: found nothing/);
  assert.throws(
    bad({ "tokenizer.json": minimal(), "tokenizer_config.json": "1" }),
    /tokenizer_config\.json: contents: found 1/,
  );
  const json = (more: object) => bad({ "tokenizer.json": minimal(more) });
  assert.throws(json({ added_tokens: [{ id: 1.5, content: "x" }] }), /added_tokens\[0\]: found id 1\.5, content "x"/);
  assert.throws(json({ added_tokens: [{ id: 1, content: "" }] }), /added_tokens\[0\]/);
  assert.throws(json({ normalizer: { type: "Nope" } }), /normalizer: found Unknown Normalizer type: Nope/);
  assert.throws(json({ normalizer: "NFC" }), /normalizer: found "NFC"/);
  assert.throws(
    json({ pre_tokenizer: { type: "Nope" } }),
    /pre_tokenizer: found type "Nope"; expected one of ByteLevel/,
  );
  assert.throws(json({ pre_tokenizer: { type: "Split", behavior: "isolated" } }), /Split\.behavior: found "isolated"/);
  const split = (pattern: unknown) => json({ pre_tokenizer: { type: "Split", behavior: "Isolated", pattern } });
  assert.throws(split({ Regex: "(" }), /Split\.pattern: found "\("/);
  assert.throws(split(null), /Split\.pattern/);
  assert.throws(json({ decoder: { type: "CTC" } }), /decoder: found type "CTC"; expected one of/);
  assert.throws(
    json({ model: { type: "WordLevel", vocab: {} } }),
    /model: found type "WordLevel"; expected one of BPE, Unigram/,
  );
  const template = { type: "TemplateProcessing", special_tokens: {} };
  const single = [{ SpecialToken: { id: "<s>" } }, { Sequence: { id: "A" } }];
  assert.throws(json({ post_processor: { ...template, single } }), /special_tokens\["<s>"\]\.ids: found nothing/);
  assert.throws(json({ post_processor: { ...template, single: [] } }), /TemplateProcessing\.single/);
  await assert.rejects(Tokenizer.fromFolder(join(folder, "none")), /none.tokenizer\.json: file: found nothing/);
});

test("special tokens around a text: BERT's and RoBERTa's way, and a sequence of processors", () => {
  const ids = (post_processor: object): number[] =>
    Tokenizer.fromFiles({ "tokenizer.json": minimal({ post_processor }) }).encode("ab");
  const roberta = { type: "RobertaProcessing", cls: ["<s>", 3], sep: ["<e>", 4] };
  assert.deepEqual(ids(roberta), [3, 2, 4]);
  assert.deepEqual(ids({ type: "Sequence", processors: [{ type: "ByteLevel" }, roberta] }), [3, 2, 4]);
  assert.throws(() => ids({ ...roberta, sep: "x" }), /RobertaProcessing\.sep/);
});

test("streaming gives characters when they are whole, and what is broken at the end", async () => {
  const tokenizer = await Tokenizer.fromFolder(`${FIXTURES}gpt2`);
  const decoder = tokenizer.createStreamDecoder({ skipSpecialTokens: true });
  const ids = tokenizer.encode("a\u{10348}", { addSpecialTokens: false });
  assert.deepEqual(
    ids.map((id) => decoder.push(id)),
    ["a", ...new Array(ids.length - 2).fill(""), "\u{10348}"],
  );
  assert.equal(decoder.push(tokenizer.eosTokenId!), "");
  assert.equal(decoder.push(ids[1]!), "");
  assert.equal(decoder.flush(), "\ufffd");
  assert.equal(decoder.push(ids[0]!), "a");
  assert.equal(decoder.flush(), "");

  const llama = await Tokenizer.fromFolder(`${FIXTURES}llama2`);
  const stream = llama.createStreamDecoder();
  const euro = [0xe2, 0x82, 0xac].map((byte) => byte + 3);
  // The first space of the text is not written, later ones are.
  const a = llama.tokenToId("▁a")!;
  assert.deepEqual(
    [a, a, ...euro, euro[0]!, a].map((id) => stream.push(id)),
    ["a", " a", "", "", "€", "", "\ufffd a"],
  );
  assert.equal(stream.flush(), "");
});
