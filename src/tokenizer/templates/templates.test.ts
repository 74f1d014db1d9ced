import assert from "node:assert/strict";
import { test } from "node:test";
import { type ChatMessage, ChatTemplate } from "../chat-template.ts";
import { CHAT_TEMPLATES, type ChatTemplateName, chatTemplateName, jinjaString, type NamedTemplate } from "./index.ts";

const say = (role: string, content: string | null, more: object = {}): ChatMessage => ({ role, content, ...more });

function render(name: ChatTemplateName, messages: ChatMessage[], variables: Record<string, unknown> = {}): string {
  const { source, system }: NamedTemplate = CHAT_TEMPLATES[name];
  const text = typeof source === "string" ? source : source(jinjaString(system!));
  return new ChatTemplate(text).render(messages, { bos_token: "<s>", eos_token: "</s>", ...variables }).text;
}
const ask = { add_generation_prompt: true };

/** Two turns after a system message, and then what opens the third. */
const chat = [
  say("system", "Be brief."),
  say("user", "1 + 1?"),
  say("assistant", "2"),
  say("user", "Sure?\n"),
  say("assistant", " Yes."),
];

const HEADER = (role: string): string => `<|start_header_id|>${role}<|end_header_id|>\n\n`;
const EXPECTED: Record<ChatTemplateName, [text: string, prompt: string]> = {
  chatml: [
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n" +
      "<|im_start|>user\nSure?\n<|im_end|>\n<|im_start|>assistant\n Yes.<|im_end|>\n",
    "<|im_start|>assistant\n",
  ],
  "llama-3": [
    `<s>${HEADER("system")}Be brief.<|eot_id|>${HEADER("user")}1 + 1?<|eot_id|>${HEADER("assistant")}2<|eot_id|>` +
      `${HEADER("user")}Sure?<|eot_id|>${HEADER("assistant")}Yes.<|eot_id|>`,
    HEADER("assistant"),
  ],
  "llama-3.1": [
    `<s>${HEADER("system")}Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|>` +
      `${HEADER("user")}1 + 1?<|eot_id|>${HEADER("assistant")}2<|eot_id|>` +
      `${HEADER("user")}Sure?<|eot_id|>${HEADER("assistant")}Yes.<|eot_id|>`,
    HEADER("assistant"),
  ],
  "qwen-2.5": [
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n" +
      "<|im_start|>user\nSure?\n<|im_end|>\n<|im_start|>assistant\n Yes.<|im_end|>\n",
    "<|im_start|>assistant\n",
  ],
  "qwen-3": [
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n" +
      "<|im_start|>user\nSure?\n<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n Yes.<|im_end|>\n",
    "<|im_start|>assistant\n",
  ],
  "gemma-2": [
    "<s><start_of_turn>user\nBe brief.\n\n1 + 1?<end_of_turn>\n<start_of_turn>model\n2<end_of_turn>\n" +
      "<start_of_turn>user\nSure?<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n",
    "<start_of_turn>model\n",
  ],
  mistral: ["<s>[INST] Be brief.\n\n1 + 1?[/INST] 2</s>[INST] Sure?\n[/INST] Yes.</s>", ""],
  "phi-3": [
    "<|system|>\nBe brief.<|end|>\n<|user|>\n1 + 1?<|end|>\n<|assistant|>\n2<|end|>\n" +
      "<|user|>\nSure?\n<|end|>\n<|assistant|>\n Yes.<|end|>\n",
    "<|assistant|>\n",
  ],
  alpaca: [
    "<s>Be brief.\n\n### Instruction:\n1 + 1?\n\n### Response:\n2</s>\n\n" +
      "### Instruction:\nSure?\n\n\n### Response:\n Yes.</s>\n\n",
    "### Response:\n",
  ],
  vicuna: ["<s>Be brief. USER: 1 + 1? ASSISTANT: 2</s>USER: Sure?\n ASSISTANT:  Yes.</s>", "ASSISTANT:"],
  zephyr: [
    "<|system|>\nBe brief.</s>\n<|user|>\n1 + 1?</s>\n<|assistant|>\n2</s>\n<|user|>\nSure?\n</s>\n<|assistant|>\n Yes.</s>\n",
    "<|assistant|>\n",
  ],
};

for (const [name, [text, prompt]] of Object.entries(EXPECTED) as [ChatTemplateName, [string, string]][]) {
  test(`${name}: a conversation, and what opens the answer`, () => {
    assert.equal(render(name, chat), text);
    const question = chat.slice(0, 4);
    const asked = render(name, question, ask);
    assert.equal(asked, render(name, question) + prompt);
    // What the model sees when it answers is what it was trained on.
    if (name !== "qwen-3") assert.ok(text.startsWith(asked.trimEnd()));
  });
}

test("without a system message: none, or the format's own", () => {
  const hi = [say("user", "hi")];
  const plain: Record<ChatTemplateName, string> = {
    chatml: "<|im_start|>user\nhi<|im_end|>\n",
    "llama-3": `<s>${HEADER("user")}hi<|eot_id|>`,
    "llama-3.1": `<s>${HEADER("system")}Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>${HEADER("user")}hi<|eot_id|>`,
    "qwen-2.5":
      "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n",
    "qwen-3": "<|im_start|>user\nhi<|im_end|>\n",
    "gemma-2": "<s><start_of_turn>user\nhi<end_of_turn>\n",
    mistral: "<s>[INST] hi[/INST]",
    "phi-3": "<|user|>\nhi<|end|>\n",
    alpaca:
      "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nhi\n\n",
    vicuna:
      "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. USER: hi ",
    zephyr: "<|user|>\nhi</s>\n",
  };
  for (const name of Object.keys(plain) as ChatTemplateName[]) assert.equal(render(name, hi), plain[name], name);
  assert.equal(render("llama-3", hi, { bos_token: null }), `${HEADER("user")}hi<|eot_id|>`);
  assert.match(render("llama-3.1", hi, { date_string: "1 Jan 2025" }), /Today Date: 1 Jan 2025\n/);
});

const tools = [{ type: "function", function: { name: "add", parameters: { type: "object" } } }];
const calling = [
  say("user", "2 + 2?"),
  say("assistant", null, { tool_calls: [{ type: "function", function: { name: "add", arguments: { a: 2 } } }] }),
  say("tool", "4"),
  say("tool", "5"),
  say("assistant", "4"),
];
const TOOL = '{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}';
const QWEN_TOOLS =
  "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n" +
  `You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n${TOOL}\n</tools>\n\n` +
  "For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n" +
  '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n';
const QWEN_CALL =
  '<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>\n' +
  "<|im_start|>user\n<tool_response>\n4\n</tool_response>\n<tool_response>\n5\n</tool_response><|im_end|>\n<|im_start|>assistant\n";

test("tools: Qwen2.5 and Qwen3", () => {
  assert.equal(
    render("qwen-2.5", calling, { tools }),
    `<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\n\n${QWEN_TOOLS}${QWEN_CALL}4<|im_end|>\n`,
  );
  // The calls come after the last question, so their turn's (empty) thoughts would be written only if it were the last.
  assert.equal(
    render("qwen-3", [say("system", "S"), ...calling], { tools }),
    `<|im_start|>system\nS\n\n${QWEN_TOOLS}${QWEN_CALL}<think>\n\n</think>\n\n4<|im_end|>\n`,
  );
});

test("tools: Llama 3.1", () => {
  const messages = calling.filter((_, i) => i !== 3);
  assert.equal(
    render("llama-3.1", messages, { tools }),
    `<s>${HEADER("system")}Environment: ipython\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>` +
      `${HEADER("user")}Given the following functions, please respond with a JSON for a function call with its proper ` +
      "arguments that best answers the given prompt.\n\nRespond in the format " +
      '{"name": function name, "parameters": dictionary of argument name and its value}.Do not use variables.\n\n' +
      `${JSON.stringify(tools[0], null, 4)}\n\n2 + 2?<|eot_id|>` +
      `${HEADER("assistant")}{"name": "add", "parameters": {"a": 2}}<|eot_id|>${HEADER("ipython")}"4"<|eot_id|>` +
      `${HEADER("assistant")}4<|eot_id|>`,
  );
  const twice = [{ ...calling[1]!, tool_calls: [{}, {}] }];
  assert.throws(() => render("llama-3.1", twice), /one tool call at a time/);
});

test("formats without tools refuse them, rather than leave them out", () => {
  for (const name of ["chatml", "llama-3", "gemma-2", "mistral", "phi-3", "alpaca", "vicuna", "zephyr"] as const) {
    for (const [messages, variables] of [
      [[say("user", "a")], { tools }],
      [calling, {}],
    ] as const) {
      assert.throws(
        () => render(name, [...messages], variables),
        new RegExp(`the ${name} template cannot write tools`),
      );
    }
  }
});

test("Qwen3's thoughts: of the turns after the last question only, from either field", () => {
  const think = "<think>\nhm\n</think>\n\n";
  const messages = [
    say("user", "a"),
    say("assistant", `${think}b`),
    say("user", "c"),
    say("assistant", "d", { reasoning_content: "hm" }),
  ];
  const text = render("qwen-3", messages);
  assert.equal(
    text,
    "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n" +
      `<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n${think}d<|im_end|>\n`,
  );
  assert.equal(render("qwen-3", [...messages.slice(0, 3), say("assistant", `${think}d`)]), text);
  const prompt = render("qwen-3", messages.slice(0, 1), { ...ask, enable_thinking: false });
  assert.ok(prompt.endsWith("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
});

test("roles a format does not have, and turns out of order", () => {
  for (const name of ["mistral", "alpaca", "vicuna"] as const) {
    assert.throws(() => render(name, [say("narrator", "a")]), /a role is narrator/);
    assert.throws(() => render(name, [say("user", "a"), say("system", "b")]), /a role is system/);
  }
  assert.throws(() => render("gemma-2", [say("user", "a"), say("user", "b")]), /take turns/);
});

test("names, however they are written", () => {
  for (const name of ["Llama-3.1", "llama31", "llama_3_1", "LLAMA 3.1", "llama-3.3"])
    assert.equal(chatTemplateName(name), "llama-3.1");
  assert.equal(chatTemplateName("qwen2.5"), "qwen-2.5");
  assert.equal(chatTemplateName("gemma"), "gemma-2");
  assert.equal(chatTemplateName("toString"), null);
});
