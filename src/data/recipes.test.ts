import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { FIXTURES, readFixture } from "../testing/tokenizer-fixtures.ts";
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { Row } from "./jsonl.ts";
import { type RecipeOptions, type TrainOn, tokenizeRow, tokenizeRows } from "./recipes.ts";

interface Prepared {
  name: string;
  tokenizer: string;
  template: string | null;
  trainOn: TrainOn | null;
  assistantOnly: boolean;
  maxSeqLength: number | null;
  rows: Row[];
  expected: { input_ids: number[]; labels: number[] }[];
}

const template = (name: string): string => readFileSync(`${FIXTURES}chat/${name}.jinja`, "utf8");
const qwen2 = await Tokenizer.fromFolder(`${FIXTURES}qwen2`);
const gpt2 = await Tokenizer.fromFolder(`${FIXTURES}gpt2`);
const locate = (rows: Row[]) => rows.map((row, i) => ({ row, where: `data.jsonl:${i + 1}` }));

test("rows become the ids and labels that TRL's SFTTrainer prepares", async () => {
  const cases = readFixture<Prepared[]>("rows.json");
  assert.ok(cases.length > 20);
  for (const { name, tokenizer, ...prepared } of cases) {
    const options: RecipeOptions = {
      ...(prepared.trainOn !== null && { trainOn: prepared.trainOn }),
      ...(prepared.maxSeqLength !== null && { maxSeqLength: prepared.maxSeqLength }),
      ...(prepared.template !== null && { chatTemplate: template(prepared.template) }),
      assistantOnlyLoss: prepared.assistantOnly,
    };
    const model = await Tokenizer.fromFolder(FIXTURES + tokenizer);
    // TRL keeps a row whose only label is its first token's, which trains nothing.
    const expected = prepared.expected.filter(({ labels }) => labels.slice(1).some((label) => label !== -100));
    const where = `${name} ${JSON.stringify(options).slice(0, 60)}`;
    if (expected.length === 0) {
      assert.throws(() => tokenizeRows(locate(prepared.rows), model, options), /without a token to train on/);
      continue;
    }
    const { rows, report } = tokenizeRows(locate(prepared.rows), model, options);
    assert.deepEqual(
      rows.map(({ inputIds }) => [...inputIds]),
      expected.map(({ input_ids }) => input_ids),
      where,
    );
    assert.deepEqual(
      rows.map(({ labels }) => [...labels]),
      expected.map(({ labels }) => labels),
      where,
    );
    assert.equal(report.rows, prepared.rows.length);
    assert.equal(report.dropped, prepared.rows.length - expected.length);
  }
});

/** The text of the tokens that are trained on. */
function trained(tokenizer: Tokenizer, row: Row, options: RecipeOptions = {}): string {
  const { inputIds, labels } = tokenizeRow({ row, where: "row" }, tokenizer, options);
  assert.equal(inputIds.length, labels.length);
  labels.forEach((label, i) => assert.ok(label === -100 || label === inputIds[i]));
  return tokenizer.decode(inputIds.filter((_, i) => labels[i] !== -100));
}

const alpaca = { instruction: "Add.", input: "2 and 2", output: "4" };

test("Alpaca rows: the chat template where there is one, else Alpaca's own prompt and EOS", () => {
  assert.equal(
    trained(qwen2, alpaca),
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nAdd.\n\n2 and 2<|im_end|>\n" +
      "<|im_start|>assistant\n4<|im_end|>\n",
  );
  assert.equal(trained(qwen2, alpaca, { trainOn: "completion" }), "4<|im_end|>");
  assert.equal(
    trained(qwen2, { ...alpaca, input: "" }, { chatTemplate: "{% for m in messages %}{{ m.content }}|{% endfor %}" }),
    "Add.|4|",
  );
  assert.equal(
    trained(gpt2, alpaca),
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response " +
      "that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n2 and 2\n\n### Response:\n4<|endoftext|>",
  );
  const { input: _, ...bare } = alpaca;
  assert.match(
    trained(gpt2, bare),
    /^Below is an instruction that describes a task\. Write .*Instruction:\nAdd\.\n\n### Response:\n4<\|endoftext\|>$/s,
  );
  assert.equal(trained(gpt2, alpaca, { trainOn: "completion" }), "4<|endoftext|>");
});

test("ShareGPT rows: from and value, with the roles' other names", () => {
  const conversations = [
    { from: "system", value: "s" },
    { from: "human", value: "q" },
    { from: "gpt", value: "a" },
    { from: "human", value: "q2" },
    { role: "assistant", content: "a2" },
  ];
  const text = trained(qwen2, { conversations });
  assert.equal(
    text,
    "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n" +
      "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2<|im_end|>\n",
  );
  assert.equal(trained(qwen2, { conversations }, { assistantOnlyLoss: true }), "a<|im_end|>a2<|im_end|>");
  assert.equal(trained(qwen2, { messages: conversations }, { trainOn: "completion" }), "a<|im_end|>a2<|im_end|>");
});

test("tools and template variables of a row reach its template", () => {
  const row = {
    messages: [
      { role: "user", content: "2?" },
      { role: "assistant", content: null, tool_calls: [{ function: { name: "f", arguments: {} } }] },
      { role: "observation", content: "4" },
    ],
    tools: '[{"name": "f"}]',
    chat_template_kwargs: { enable_thinking: false },
  };
  const text = trained(qwen2, row, { chatTemplate: template("reasoning") });
  assert.match(text, /<tools>\n\{"name": "f"\}\n<\/tools>/);
  assert.match(text, /<r>\n4\n<\/r>/);
});

test("a token that spans prompt and completion is trained on, and the prompt's others are not", () => {
  // " answer" is more than one token; the border falls inside a word.
  const { ids, offsets } = gpt2.encodeWithOffsets("the translation");
  const cut = ids.findIndex((_, i) => offsets[2 * i + 1]! - offsets[2 * i]! > 2 && i > 0);
  const border = offsets[2 * cut]! + 1;
  const row = { prompt: "the translation".slice(0, border), completion: "the translation".slice(border) };
  assert.equal(trained(gpt2, row), `${gpt2.decode(ids.slice(cut))}<|endoftext|>`);
});

test("truncation, rows without a target, and their report", () => {
  const rows = locate([
    { prompt: "a b c d e f g h", completion: " i" },
    { prompt: "a", completion: " b c d e f g h i j k l m n o p" },
    { prompt: "a", completion: "" },
    { text: "" },
  ]);
  const { rows: kept, report } = tokenizeRows(rows, gpt2, { maxSeqLength: 8 });
  const sizes = rows.map(
    ({ row }) => gpt2.encode(String(row.prompt ?? "") + String(row.completion ?? row.text)).length + 1,
  );
  assert.deepEqual(sizes.slice(2), [2, 1]);
  assert.equal(kept.length, 2);
  assert.deepEqual(report, {
    rows: 4,
    dropped: 2,
    droppedAt: ["data.jsonl:1", "data.jsonl:4"],
    truncated: 2,
    tokensCut: sizes[0]! + sizes[1]! - 16,
    tokens: 10,
    targets: 8,
  });
});

test("no row left is an error that says why", () => {
  const run =
    (rows: Row[], options: RecipeOptions = {}) =>
    () =>
      tokenizeRows(locate(rows), gpt2, options);
  assert.throws(run([]), /data set: found no rows/);
  assert.throws(
    run([{ prompt: "a b c d", completion: "e" }], { maxSeqLength: 3 }),
    /found 1 rows, 1 of them \(data\.jsonl:1 …\) without a token to train on; 1 rows lost their end to maxSeqLength 3/,
  );
  assert.throws(run([{ text: "a" }], { maxSeqLength: 0 }), /maxSeqLength: found 0/);
  assert.throws(
    run([{ text: "a" }], { trainOn: "completion" }),
    /data\.jsonl:1: trainOn: found "completion" for a row that is plain text/,
  );
});

test("malformed rows are named, with the nearest right field", () => {
  const bad = (row: Row, message: RegExp) =>
    assert.throws(() => tokenizeRows(locate([{ text: "fine" }, row]), qwen2), message);
  bad(
    { instrution: "a", output: "b" },
    /data\.jsonl:2: fields: found \["instrution", "output"\]; .*is "instrution" meant to be "instruction"\?/,
  );
  bad({ question: "a", answer: "b" }, /found \["question", "answer"\]; expected \{"messages".*rename the columns/);
  bad({ messages: null, text: 7 }, /:2: text: found 7; expected a string/);
  bad({ messages: [] }, /messages: found \[\]; expected a non-empty array/);
  bad({ messages: ["hi"] }, /messages\[0\]: found "hi"; expected an object/);
  bad(
    { messages: [{ rol: "user", content: "a" }] },
    /messages\[0\]\.role: found \["rol", "content"\].*is "rol" meant to be "role"\?/,
  );
  bad(
    { conversations: [{ from: "humann", value: "a" }] },
    /conversations\[0\]\.role: found "humann".*nearest: "human"/,
  );
  bad(
    { messages: [{ role: "user", contents: "a" }] },
    /messages\[0\]\.content: found nothing.*is "contents" meant to be "content"\?/,
  );
  bad({ messages: [{ role: "toString", content: "a" }] }, /role: found "toString"/);
  bad({ prompt: "a", completion: 3 }, /completion: found 3/);
  bad({ messages: [{ role: "user", content: "a" }], tools: "{" }, /tools: found "\{"; expected JSON/);
  bad({ messages: [{ role: "user", content: "a" }], tools: {} }, /tools: found an object/);
  assert.throws(
    () =>
      tokenizeRows(locate([{ messages: [{ role: "assistant", content: "a" }] }]), qwen2, {
        chatTemplate: template("strict"),
      }),
    { name: "ChatTemplateError", message: "data.jsonl:1: Roles must alternate: user, assistant, ..." },
  );
  assert.throws(
    () => tokenizeRows(locate([{ messages: [{ role: "user", content: "a" }] }]), gpt2),
    /data\.jsonl:1: chat template: found none/,
  );
});
