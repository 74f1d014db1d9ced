import assert from "node:assert/strict";
import { test } from "node:test";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import { paintSample, previewRows } from "./preview.ts";
import { countTargets } from "./recipe-report.ts";
import { tokenizeRow } from "./recipes.ts";

const qwen2 = await Tokenizer.fromFolder(`${FIXTURES}qwen2`);
const rows = [
  {
    messages: [
      { role: "user", content: "é🙂?" },
      { role: "assistant", content: "yes 🙂" },
    ],
  },
  { messages: [{ role: "user", content: "nobody answers" }] },
  {
    messages: [
      { role: "user", content: "a" },
      { role: "assistant", content: "b ".repeat(60) },
    ],
  },
].map((row, i) => ({ row, where: `chat.jsonl:${i + 1}` }));
const options = { assistantOnlyLoss: true, maxSeqLength: 100 };
const preview = await previewRows(rows, qwen2, options, { rows: 3, limit: 10 });

test("samples hold each row's tokens, with what is trained on, dropped rows and cuts told", () => {
  assert.deepEqual(
    preview.samples.map(({ where, dropped }) => [where, dropped]),
    [
      ["chat.jsonl:1", false],
      ["chat.jsonl:2", true],
      ["chat.jsonl:3", false],
    ],
  );
  const whole = tokenizeRow(rows[0]!, qwen2, options);
  const [first, second, third] = preview.samples;
  assert.deepEqual(
    first!.tokens.map(({ id }) => id),
    [...whole.inputIds],
  );
  assert.equal(first!.tokens.filter(({ trained }) => trained).length, countTargets(whole));
  assert.equal(first!.tokens.map(({ text }) => text).join(""), qwen2.decode(whole.inputIds));
  assert.equal(
    second!.tokens.some(({ trained }) => trained),
    false,
  );
  assert.equal(third!.tokens.length, 100);
  assert.equal(third!.cut, tokenizeRow(rows[2]!, qwen2).inputIds.length - 100);
  assert.deepEqual([preview.report.rows, preview.report.dropped, preview.report.truncated], [3, 1, 1]);
  assert.deepEqual(preview.lengths, [whole.inputIds.length, 100]);
});

test("painted with colours, or with brackets", () => {
  const prompt =
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\né🙂?<|im_end|>\n<|im_start|>assistant\n";
  const [sample] = preview.samples;
  assert.equal(paintSample(sample!, false), `${prompt}[[yes 🙂<|im_end|>]]\n`);
  assert.equal(paintSample(sample!, true), `\x1b[2m${prompt}\x1b[22m\x1b[32myes 🙂<|im_end|>\x1b[39m\x1b[2m\n\x1b[22m`);
});

test("a terminal's commands in the data are written out", () => {
  const sample = {
    where: "",
    dropped: false,
    cut: 0,
    tokens: [{ id: 0, text: "\x1b]0;x\x07\r\n\t\x9b", trained: false }],
  };
  assert.equal(paintSample(sample, false), "\\x1b]0;x\\x07\\x0d\n\t\\x9b");
});

test("no more rows are read than counted", async () => {
  let read = 0;
  async function* endless() {
    for (;;) {
      read++;
      yield rows[0]!;
    }
  }
  const found = await previewRows(endless(), qwen2, options, { rows: 1, limit: 5 });
  assert.equal(found.more, true);
  assert.equal(found.report.rows, 5);
  assert.equal(found.samples.length, 1);
  assert.equal(read, 6);
  assert.equal((await previewRows(rows, qwen2, options, { rows: 0, limit: 3 })).more, false);
});
