import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import type { ChatMessage } from "./chat-template.ts";
import { getChatTemplate } from "./chat-template-by-name.ts";
import { Tokenizer } from "./tokenizer.ts";

const load = (name: string): Promise<Tokenizer> => Tokenizer.fromFolder(FIXTURES + name);
const [qwen2, llama3, gemma, mistral, gpt2] = (await Promise.all(
  ["qwen2", "llama3", "gemma", "mistral", "gpt2"].map(load),
)) as [Tokenizer, Tokenizer, Tokenizer, Tokenizer, Tokenizer];
const chat: ChatMessage[] = [
  { role: "user", content: "q" },
  { role: "assistant", content: "a" },
];
const text = (tokenizer: Tokenizer, messages = chat): string =>
  tokenizer.applyChatTemplate(messages, { tokenize: false });

test("a new tokenizer writes by the template; the old one stays as it was", () => {
  const before = text(llama3);
  const tokenizer = getChatTemplate(llama3, "chatml");
  assert.equal(text(tokenizer), "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n");
  assert.equal(text(llama3), before);
  assert.deepEqual(tokenizer.encode("naïve 🙂"), llama3.encode("naïve 🙂"));
  assert.equal(text(getChatTemplate(llama3)), before);
});

test("the end-of-turn token becomes EOS: a known one by its name", () => {
  const tokenizer = getChatTemplate(gemma, "gemma-2");
  assert.equal(gemma.eosToken, "<eos>");
  assert.equal(tokenizer.eosToken, "<end_of_turn>");
  assert.equal(tokenizer.eosTokenId, gemma.tokenToId("<end_of_turn>"));
  assert.equal(tokenizer.vocabSize, gemma.vocabSize);
  // The old one still ends a generation.
  assert.deepEqual(tokenizer.eosTokenIds, [tokenizer.eosTokenId, gemma.eosTokenId]);
  assert.equal(getChatTemplate(gemma, "gemma-2", { mapEosToken: false }).eosToken, "<eos>");
  assert.equal(getChatTemplate(qwen2, "qwen-2.5").eosTokenId, qwen2.eosTokenId);
});

test("the end-of-turn token becomes EOS: an unknown one takes the old one's id", () => {
  for (const old of [gpt2, mistral, llama3]) {
    const tokenizer = getChatTemplate(old, "chatml");
    assert.equal(old.tokenToId("<|im_end|>"), null);
    assert.equal(tokenizer.eosToken, "<|im_end|>");
    assert.equal(tokenizer.eosTokenId, old.eosTokenId);
    assert.equal(tokenizer.tokenToId(old.eosToken!), null);
    assert.equal(tokenizer.vocabSize, old.vocabSize);
    assert.deepEqual(tokenizer.encode("<|im_end|>", { addSpecialTokens: false }), [old.eosTokenId]);
    assert.equal(tokenizer.decode([old.eosTokenId!]), "<|im_end|>");
    assert.deepEqual(tokenizer.eosTokenIds, [old.eosTokenId]);
  }
  // GPT-2's one special token is BOS too.
  assert.equal(getChatTemplate(gpt2, "chatml").bosToken, "<|im_end|>");
});

test("a saved tokenizer has template and EOS when loaded again", async () => {
  const folder = await mkdtemp(join(tmpdir(), "template-"));
  try {
    const tokenizer = getChatTemplate(mistral, "chatml");
    await tokenizer.savePretrained(folder);
    const loaded = await Tokenizer.fromFolder(folder);
    assert.equal(loaded.eosToken, "<|im_end|>");
    assert.equal(loaded.chatTemplate, tokenizer.chatTemplate);
    assert.deepEqual(loaded.applyChatTemplate(chat), tokenizer.applyChatTemplate(chat));
  } finally {
    await rm(folder, { recursive: true });
  }
});

const shareGpt = [
  { from: "system", value: "s" },
  { from: "human", value: "q" },
  { from: "gpt", value: "a" },
] as unknown as ChatMessage[];
const mapping = { role: "from", content: "value", user: "human", assistant: "gpt" };

test("mapping: conversations under ShareGPT's names, and under the usual ones, for every template", () => {
  const usual: ChatMessage[] = [{ role: "system", content: "s" }, ...chat];
  const names = [
    "chatml",
    "llama-3",
    "llama-3.1",
    "qwen-2.5",
    "qwen-3",
    "gemma-2",
    "mistral",
    "phi-3",
    "alpaca",
    "vicuna",
    "zephyr",
  ];
  for (const name of names) {
    const plain = getChatTemplate(gpt2, name);
    const mapped = getChatTemplate(gpt2, name, { mapping });
    assert.equal(text(mapped, shareGpt), text(plain, usual), name);
    assert.equal(text(mapped, usual), text(plain, usual), name);
  }
  const renamed = getChatTemplate(gpt2, "chatml", { mapping: { user: "human" } });
  assert.equal(text(renamed, [{ role: "human", content: "q" }]), "<|im_start|>user\nq<|im_end|>\n");
  assert.equal(
    getChatTemplate(qwen2, "chatml", { mapping: { role: "role" } }).chatTemplate,
    getChatTemplate(qwen2, "chatml").chatTemplate,
  );
});

test("a template of one's own, with its end of turn", () => {
  const template = "{% for m in messages %}{{ m.content }}<|stop|>{% endfor %}";
  const tokenizer = getChatTemplate(gpt2, { template, endOfTurn: "<|stop|>" });
  assert.equal(text(tokenizer), "q<|stop|>a<|stop|>");
  assert.equal(tokenizer.eosToken, "<|stop|>");
  assert.equal(getChatTemplate(gpt2, { template }).eosToken, "<|endoftext|>");
  assert.throws(() => getChatTemplate(gpt2, { template: "{% for %}" }), /does not parse/);
});

test("a system message in place of the format's own, whatever is in it", () => {
  const systemMessage = 'It\'s "kind" \\n {{ no }}\nReally.';
  const tokenizer = getChatTemplate(gpt2, "vicuna", { systemMessage });
  assert.ok(text(tokenizer).includes(`${systemMessage} USER: q`));
  assert.throws(
    () => getChatTemplate(gpt2, "chatml", { systemMessage }),
    /systemMessage: found the chatml template; expected .*vicuna/,
  );
});

test("what cannot be had is named", () => {
  assert.throws(
    () => getChatTemplate(gpt2, "lama-3"),
    /chat template: found "lama-3"; expected .*\(nearest: llama-3\)/,
  );
  assert.throws(
    () => getChatTemplate(gpt2),
    /chat template: found none in this tokenizer; expected one by name: chatml/,
  );
  const files = Object.fromEntries([...gpt2.files].filter(([name]) => name === "tokenizer.json"));
  const bare = Tokenizer.fromFiles(files);
  assert.throws(() => getChatTemplate(bare, "chatml"), /eos_token: found none, to become "<\|im_end\|>"/);
  assert.equal(getChatTemplate(bare, "chatml", { mapEosToken: false }).eosToken, null);
});
