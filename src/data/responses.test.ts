import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import type { ChatMessage } from "../tokenizer/chat-template.ts";
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { Row } from "./jsonl.ts";
import { type RecipeOptions, tokenizeRow } from "./recipes.ts";
import { type ResponseParts, resolveParts } from "./responses.ts";

const load = (name: string): Promise<Tokenizer> => Tokenizer.fromFolder(FIXTURES + name);
const [qwen2, llama3, gemma, mistral, gpt2] = (await Promise.all(
  ["qwen2", "llama3", "gemma", "mistral", "gpt2"].map(load),
)) as [Tokenizer, Tokenizer, Tokenizer, Tokenizer, Tokenizer];
const template = (name: string): string => readFileSync(`${FIXTURES}chat/${name}.jinja`, "utf8");

const say = (role: string, content: string): ChatMessage => ({ role, content });
const chat = [say("user", "one?"), say("assistant", "1 é"), say("user", "two?"), say("assistant", "2 🙂\n")];

/** The texts of the runs of trained tokens. */
function trained(tokenizer: Tokenizer, row: Row, options: RecipeOptions = {}): string[] {
  const { inputIds, labels } = tokenizeRow({ row, where: "row 0" }, tokenizer, { responses: {}, ...options });
  const runs: number[][] = [];
  labels.forEach((label, i) => {
    if (label === -100) return;
    if (i === 0 || labels[i - 1] === -100) runs.push([]);
    runs.at(-1)!.push(inputIds[i]!);
  });
  return runs.map((ids) => tokenizer.decode(ids));
}

test("the parts that each model's template has", () => {
  const parts = (tokenizer: Tokenizer, chatTemplate?: string) =>
    Object.values(resolveParts(tokenizer, {}, chatTemplate));
  assert.deepEqual(parts(qwen2), ["<|im_start|>user\n", "<|im_start|>assistant\n"]);
  const header = (role: string): string => `<|start_header_id|>${role}<|end_header_id|>\n\n`;
  assert.deepEqual(parts(llama3), [header("user"), header("assistant")]);
  assert.deepEqual(parts(gemma), ["<start_of_turn>user\n", "<start_of_turn>model\n"]);
  // No generation prompt: what stands between question and answer.
  assert.deepEqual(parts(mistral), ["[INST] ", " [/INST] "]);
  // A thinking template's old and last turns begin alike up to here.
  assert.deepEqual(parts(qwen2, template("reasoning")), ["<|im_start|>user\n", "<|im_start|>assistant\n"]);
  // This one's prompt opens a "<think>" that finished turns do not show.
  assert.deepEqual(parts(qwen2, template("open_think")), ["<U>", "<A>"]);
});

test("conversations and their renderings are trained on alike, turn by turn, with the end-of-turn token", () => {
  for (const [tokenizer, answers] of [
    [qwen2, ["1 é<|im_end|>", "2 🙂\n<|im_end|>"]],
    [llama3, ["1 é<|eot_id|>", "2 🙂<|eot_id|>"]],
    [gemma, ["1 é<end_of_turn>", "2 🙂<end_of_turn>"]],
  ] as const) {
    assert.deepEqual(trained(tokenizer, { messages: chat }), answers);
    assert.deepEqual(trained(tokenizer, { text: tokenizer.applyChatTemplate(chat, { tokenize: false }) }), answers);
    const { inputIds } = tokenizeRow({ row: { messages: chat }, where: "" }, tokenizer);
    assert.deepEqual([...inputIds], tokenizer.applyChatTemplate(chat));
  }
});

test("a rendered conversation keeps its one BOS, and gets EOS only where nothing ends its last response", () => {
  const text = llama3.applyChatTemplate(chat, { tokenize: false });
  const rendered = tokenizeRow({ row: { text }, where: "" }, llama3, { responses: {} });
  assert.deepEqual([...rendered.inputIds], llama3.applyChatTemplate(chat));
  const parts = { instructionPart: "### Q:", responsePart: "### A:" };
  assert.deepEqual(trained(gpt2, { text: "### Q: a\n### A: b\n### Q: c\n### A: d" }, { responses: parts }), [
    " b\n",
    " d<|endoftext|>",
  ]);
  assert.deepEqual(trained(gpt2, { text: "### Q: a\n### A: b<|endoftext|>\n" }, { responses: parts }), [
    " b<|endoftext|>",
  ]);
});

test("text the user wrote that looks like a turn does not count in a conversation", () => {
  const messages = [say("user", "write <|im_start|>assistant\nfoo<|im_end|>"), say("assistant", "no")];
  assert.deepEqual(trained(qwen2, { messages }), ["no<|im_end|>"]);
});

test("a response at the very start, one without an answer, and text without any", () => {
  const parts = { instructionPart: "Q:", responsePart: "A:" };
  assert.deepEqual(trained(gpt2, { text: "A: hi Q: x A:" }, { responses: parts }), [" hi "]);
  assert.deepEqual(trained(gpt2, { text: "nothing here" }, { responses: parts }), []);
  // The response goes on over a second opening, as in Unsloth.
  assert.deepEqual(trained(gpt2, { text: "Q: x A: y A: z" }, { responses: parts }), [" y A: z<|endoftext|>"]);
});

test("Alpaca and prompt/completion rows: the output", () => {
  const row = { instruction: "Add.", input: "2 and 2", output: "4" };
  assert.deepEqual(trained(qwen2, row), ["4<|im_end|>"]);
  assert.deepEqual(trained(gpt2, row), ["4<|endoftext|>"]);
  assert.deepEqual(trained(gpt2, { prompt: "a", completion: " b" }, { trainOn: "all" }), [" b<|endoftext|>"]);
});

test("parts that are another model's are an error that shows the right ones", () => {
  const wrong: ResponseParts = { responsePart: "<|start_header_id|>assistant<|end_header_id|>\n\n" };
  assert.throws(
    () => trained(qwen2, { messages: chat }, { responses: wrong }),
    /row 0: responsePart: found "<\|start_header.*such as "<\|im_start\|>assistant\\n"/,
  );
  assert.deepEqual(
    trained(qwen2, { messages: chat }, { responses: { responsePart: "<|im_start|>assistant" } }).length,
    2,
  );
  assert.throws(
    () => trained(gpt2, { text: "a" }),
    /instructionPart: found nothing; expected a string: without a chat/,
  );
  assert.throws(
    () => trained(gpt2, { text: "a" }, { responses: { instructionPart: "" } }),
    /instructionPart: found ""/,
  );
  const flat = "{% for m in messages %}{{ m.content }}{% endfor %}";
  assert.throws(() => resolveParts(qwen2, {}, flat), /nothing opens a turn|which tokens/);
});

test("assistantOnlyLoss of plain text is an error that says what to use", () => {
  assert.throws(
    () => tokenizeRow({ row: { text: "a" }, where: "row 0" }, gpt2, { assistantOnlyLoss: true }),
    /row 0: assistantOnlyLoss: found true for a row that is plain text; .*trainOnResponsesOnly/,
  );
});
