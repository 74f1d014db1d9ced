import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { FIXTURES, readFixture } from "../testing/tokenizer-fixtures.ts";
import { type ChatMessage, ChatTemplate, ChatTemplateError } from "./chat-template.ts";
import { strftimeNow } from "./strftime.ts";
import { Tokenizer } from "./tokenizer.ts";

interface Row {
  template: string;
  title: string;
  messages: ChatMessage[];
  options: { add_generation_prompt?: boolean; tools?: Record<string, unknown>[]; enable_thinking?: boolean };
  text?: string;
  error?: string;
  ids?: number[];
  mask?: number[];
}

/** Where @huggingface/jinja is stricter about a key that is not there, or we about a list printed as text. */
const STRICTER = ["whitespace calls", "whitespace parts", "features calls"];

test("renderings, ids and assistant masks equal transformers'", async () => {
  const plain = await Tokenizer.fromFolder(`${FIXTURES}qwen2`);
  const tokenizer = Tokenizer.fromFiles({
    "tokenizer.json": readFileSync(`${FIXTURES}qwen2/tokenizer.json`),
    "tokenizer_config.json": JSON.stringify({ bos_token: "<|endoftext|>", eos_token: "<|im_end|>" }),
  });
  assert.equal(plain.bosToken, null);
  const rows = readFixture<Row[]>("chat/expected.json");
  assert.ok(rows.length > 100);
  for (const { template, title, messages, options, ...expected } of rows) {
    const { add_generation_prompt: addGenerationPrompt = false, tools, ...variables } = options;
    const chatTemplate = readFileSync(`${FIXTURES}chat/${template}.jinja`, "utf8");
    const chat = { chatTemplate, addGenerationPrompt, variables, ...(tools && { tools }) };
    const where = `${template} ${title} ${JSON.stringify(options)}`;
    if (expected.text === undefined || STRICTER.includes(`${template} ${title}`)) {
      assert.throws(() => tokenizer.applyChatTemplate(messages, chat), ChatTemplateError, where);
      continue;
    }
    assert.equal(tokenizer.applyChatTemplate(messages, { ...chat, tokenize: false }), expected.text, where);
    if (expected.ids === undefined) continue;
    assert.deepEqual(tokenizer.applyChatTemplate(messages, chat), expected.ids, where);
    const { ids, assistantTurns } = tokenizer.encodeChat(messages, chat);
    const mask = new Array<number>(ids.length).fill(0);
    for (const [start, end] of assistantTurns) mask.fill(1, start, end);
    assert.deepEqual(ids, expected.ids, where);
    assert.deepEqual(mask, expected.mask, where);
  }
});

const user = { role: "user", content: "hi" };

test("a template's own refusal, a failure and a syntax error are ChatTemplateErrors that say why", () => {
  const render = (source: string) => () => new ChatTemplate(source).render([user], {}).text;
  assert.throws(render("{{ raise_exception('Roles must alternate') }}"), {
    name: "ChatTemplateError",
    message: "Roles must alternate",
  });
  assert.throws(render("{{ messages[0].content.nothing() }}"), /the chat template failed: /);
  assert.throws(render("{% for m in messages %}"), /the chat template does not parse: /);
  assert.throws(render("{% for i in range(10000000) %}{% endfor %}"), /range\(\) of 10000000 numbers/);
  assert.throws(render("{{ range(1, 2, 0) }}"), ChatTemplateError);
});

test("variables may be called anything, and override the defaults", () => {
  const render = (source: string, variables: object): string =>
    new ChatTemplate(source).render([user], { ...variables }).text;
  assert.equal(render("{{ true }}|{{ strftime_now('%Y') }}", { strftime_now: () => "now" }), "true|now");
  assert.equal(render("{{ __proto__ }}{{ constructor }}|", {}), "|");
  assert.equal(render("{% set ns = namespace(a=1) %}{{ ns.a }}", { namespace: "x" }), "1");
});

test("strip, lstrip and rstrip take the characters to strip", () => {
  const render = (source: string): string =>
    new ChatTemplate(source).render([{ role: "user", content: "\n\n  a b\n" }], {}).text;
  assert.equal(render("[{{ messages[0].content.lstrip('\\n') }}]"), "[  a b\n]");
  assert.equal(render("[{{ messages[0].content.rstrip('\\nb') }}]"), "[\n\n  a ]");
  assert.equal(render("[{{ messages[0].content.strip('\\n').strip() }}]"), "[a b]");
  assert.equal(render("[{{ messages[0].content.strip(none) }}]"), "[a b]");
  assert.throws(() => render("{{ messages[0].missing.strip('x') }}"), ChatTemplateError);
});

test("generation blocks survive any content, markers included", () => {
  const template = new ChatTemplate(
    "{% for m in messages %}<{% generation %}{{ m.content }}{% endgeneration %}>{% endfor %}",
  );
  assert.equal(template.hasGenerationBlocks, true);
  const content = "\ufdd0x\ufdd1";
  const { text, spans } = template.render(
    [
      { role: "assistant", content },
      { role: "assistant", content: "" },
    ],
    {},
  );
  assert.equal(text, `<${content}><>`);
  assert.deepEqual(spans, [
    [1, 4],
    [6, 6],
  ]);
  const all = String.fromCharCode(...Array.from({ length: 32 }, (_, i) => 0xfdd0 + i));
  assert.throws(() => template.render([{ role: "assistant", content: all }], {}), /U\+FDD0/);
});

test("strftime is English, whatever the locale", () => {
  const date = new Date(2024, 1, 29, 15, 4, 5);
  assert.equal(strftimeNow("%d %B %Y, %H:%M:%S", date), "29 February 2024, 15:04:05");
  assert.equal(
    strftimeNow("%a %b %-d %I:%M %p %y %j %F %T %% %Q", date),
    "Thu Feb 29 03:04 PM 24 060 2024-02-29 15:04:05 % %Q",
  );
  assert.equal(strftimeNow("%j %-j %A", new Date(2023, 0, 1)), "001 1 Sunday");
});
