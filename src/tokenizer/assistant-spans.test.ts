import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import type { ChatMessage } from "./chat-template.ts";
import { Tokenizer } from "./tokenizer.ts";

const tokenizer = Tokenizer.fromFiles({
  "tokenizer.json": readFileSync(`${FIXTURES}qwen2/tokenizer.json`),
  "tokenizer_config.json": JSON.stringify({ bos_token: "<|endoftext|>", eos_token: "<|im_end|>" }),
});
const template = (name: string): string => readFileSync(`${FIXTURES}chat/${name}.jinja`, "utf8");

/** The text of the tokens of each assistant turn. */
function turns(messages: ChatMessage[], chatTemplate: string): string[] {
  const { ids, assistantTurns } = tokenizer.encodeChat(messages, { chatTemplate });
  assert.deepEqual(ids, tokenizer.applyChatTemplate(messages, { chatTemplate }));
  return assistantTurns.map(([start, end]) => tokenizer.decode(ids.slice(start, end)));
}

const say = (role: string, content: string): ChatMessage => ({ role, content });
const three = [
  say("system", "Be kind."),
  say("user", "one?"),
  say("assistant", "1"),
  say("user", "1"),
  say("assistant", "1"),
  say("user", "assistant\n1"),
  say("assistant", "three 🙂"),
];

test("each assistant turn with its end-of-turn token, and not what follows it, though texts repeat", () => {
  assert.deepEqual(turns(three, template("chatml")), ["1<|im_end|>", "1<|im_end|>", "three 🙂<|im_end|>"]);
});

test("the same as a template that marks generation itself", () => {
  for (const messages of [three, three.slice(1, 3), [say("user", "a"), say("assistant", " \n spaced \n")]]) {
    assert.deepEqual(
      turns(messages, template("chatml").replace(/{% if loop.first.*?{% endif %}/s, "")),
      turns(messages, template("chatml_generation")),
    );
  }
});

test("content that joins its prompt's last token: the token counts", () => {
  // Qwen2's pattern makes one piece of all the newlines, so "\n" of the header and "\n\n" of the content share tokens.
  const messages = [say("user", "a"), say("assistant", "\n\nb")];
  const [text] = turns(messages, template("chatml"));
  assert.ok(text!.endsWith("b<|im_end|>"));
  assert.ok(text === "\n\nb<|im_end|>" || text === "\n\n\nb<|im_end|>");
});

test("old turns that lose their reasoning (Qwen3's way)", () => {
  const messages = [
    say("user", "one?"),
    say("assistant", "<think>\nhm\n</think>\n\nfirst"),
    say("user", "two?"),
    say("assistant", "<think>\nwell\n</think>\n\nsecond"),
  ];
  assert.deepEqual(turns(messages, template("reasoning")), [
    "first<|im_end|>",
    "<think>\nwell\n</think>\n\nsecond<|im_end|>",
  ]);
  assert.deepEqual(turns(three, template("reasoning")), [
    "1<|im_end|>",
    "1<|im_end|>",
    "<think>\n\n</think>\n\nthree 🙂<|im_end|>",
  ]);
});

test("tool calls without content, and the answer after their results", () => {
  const calls = [{ function: { name: "add", arguments: { a: 2 } } }];
  const messages: ChatMessage[] = [
    say("user", "2?"),
    { role: "assistant", content: null, tool_calls: calls },
    say("tool", "4"),
    say("assistant", "It is 4."),
  ];
  assert.deepEqual(turns(messages, template("reasoning")), [
    '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>',
    "<think>\n\n</think>\n\nIt is 4.<|im_end|>",
  ]);
});

test("a prompt that opens more than a finished turn shows (DeepSeek-R1's way)", () => {
  const messages = [
    say("user", "a"),
    say("assistant", "<table>"),
    say("user", "b"),
    say("assistant", "<think>\nx\n</think>y"),
  ];
  // "<think>\n" of the prompt is nowhere in the first turn; "<t" of "<table>" must not pass for its start.
  assert.deepEqual(turns(messages, template("open_think")), ["<table><|im_end|>", "y<|im_end|>"]);
});

test("no header at all (Llama-2's way), and a conversation that an assistant opens", () => {
  const messages = three.slice(1, 5);
  assert.deepEqual(turns(messages, template("strict")), [" 1<|im_end|>", " 1<|im_end|>"]);
  const opened = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
  assert.deepEqual(turns([say("assistant", "Hello"), say("user", "hi"), say("assistant", "yes")], opened), [
    "Hello\n",
    "assistant: yes\n",
  ]);
});

test("a template whose turns cannot be told apart is refused, with what to do", () => {
  const last = "{% for m in messages %}{{ messages|length }}{{ m.content|upper }}{% endfor %}";
  assert.throws(
    () => tokenizer.encodeChat([say("user", "a"), say("assistant", "b"), say("user", "c")], { chatTemplate: last }),
    /which tokens of message 1 .*{% generation %}/s,
  );
});
