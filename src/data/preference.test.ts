import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { oracleJson } from "../testing/oracle.ts";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import { IGNORE_INDEX, type TokenizedRow } from "./collate.ts";
import type { Row } from "./jsonl.ts";
import { type PreferenceOptions, tokenizePreferences, tokenizePrompts, tokenizeUnpaired } from "./preference.ts";

interface Labelled {
  input_ids: number[];
  labels: number[];
}
interface Case {
  trainer: "dpo" | "kto" | "orpo";
  tokenizer: string;
  template: string | null;
  max_length: number | null;
  truncation: "keep_start" | "keep_end";
  rows: Row[];
  expected: { chosen: Labelled; rejected: Labelled; completion: Labelled; label: boolean }[];
}

const template = (name: string): string => readFileSync(`${FIXTURES}chat/${name}.jinja`, "utf8");
const qwen2 = await Tokenizer.fromFolder(`${FIXTURES}qwen2`);
const chatml = { chatTemplate: template("chatml") };
const locate = (rows: Row[]) => rows.map((row, i) => ({ row, where: `data.jsonl:${i + 1}` }));
const plain = ({ inputIds, labels }: TokenizedRow): Labelled => ({ input_ids: [...inputIds], labels: [...labels] });
const text = (row: TokenizedRow, answer: boolean): string =>
  qwen2.decode(row.inputIds.filter((_, i) => (row.labels[i] !== IGNORE_INDEX) === answer));

test("rows become the ids and labels that TRL's DPO, KTO and ORPO trainers prepare", async () => {
  const cases = oracleJson<Case[]>("preference", "rows.json");
  assert.ok(cases.length > 40);
  for (const { trainer, tokenizer: name, rows, expected, ...settings } of cases) {
    const tokenizer = await Tokenizer.fromFolder(FIXTURES + name);
    const options: PreferenceOptions = {
      maxLength: settings.max_length,
      truncationMode: settings.truncation,
      ...(settings.template !== null && { chatTemplate: template(settings.template) }),
      answerTokens: trainer === "orpo" ? "merged" : "prefix",
    };
    const where = `${trainer} ${name} ${settings.template} ${settings.max_length} ${JSON.stringify(rows[0])}`;
    if (trainer === "kto") {
      const { answers, report } = tokenizeUnpaired(locate(rows), tokenizer, options);
      const own = answers.map(({ row, label }) => ({ label, completion: plain(row) }));
      assert.deepEqual(own, expected, where);
      assert.equal(
        report.tokens,
        own.reduce((sum, { completion }) => sum + completion.input_ids.length, 0),
      );
    } else {
      const { pairs, report } = tokenizePreferences(locate(rows), tokenizer, options);
      const own = pairs.map(({ chosen, rejected }) => ({ chosen: plain(chosen), rejected: plain(rejected) }));
      // TRL's ORPOTrainer keeps rows whose answer is cut away.
      const trained = expected.filter(({ chosen }) => chosen.labels.some((label) => label !== IGNORE_INDEX));
      assert.deepEqual(own, trained, where);
      assert.equal(report.rows, rows.length);
    }
  }
});

test("rows without a difference to learn from are left out, counted by reason, and named", () => {
  const rows = [
    { prompt: "a", chosen: " b", rejected: " b" },
    { prompt: "a", chosen: " ", rejected: " b" },
    { prompt: "a long prompt of more tokens than there is room for", chosen: " b", rejected: " c" },
    { prompt: "a", chosen: " b c d e f g h i", rejected: " x" },
  ];
  const { pairs, report } = tokenizePreferences(locate(rows), qwen2, { maxLength: 6 });
  assert.equal(pairs.length, 1);
  assert.deepEqual(report.dropped, { equal: 1, empty: 1, cut: 1 });
  assert.deepEqual(report.droppedAt, ["data.jsonl:1", "data.jsonl:2", "data.jsonl:3"]);
  assert.equal(report.rows, 4);
  assert.equal(report.tokens, pairs[0]!.chosen.inputIds.length + pairs[0]!.rejected.inputIds.length);
  assert.throws(() => tokenizePreferences(locate(rows.slice(0, 3)), qwen2, { maxLength: 6 }), {
    message: /3 rows, none of which is left \(1 with equal answers, 1 with an empty one, 1 whose answer is cut away/,
  });
  assert.throws(() => tokenizePreferences([], qwen2), /no rows/);
});

test("prompts lose their beginning and answers their end to lengths of their own", () => {
  const row = { prompt: "one two three four five", chosen: " six seven eight nine", rejected: " ten eleven twelve" };
  const { pairs, report } = tokenizePreferences(locate([row]), qwen2, { maxPromptLength: 2, maxCompletionLength: 3 });
  const { chosen, rejected } = pairs[0]!;
  assert.ok(row.prompt.endsWith(text(chosen, false)) && text(chosen, false).length > 0);
  assert.ok(row.chosen.startsWith(text(chosen, true)) && row.rejected.startsWith(text(rejected, true)));
  assert.equal(chosen.inputIds.length, 5);
  assert.equal(report.truncated, 2);
  assert.throws(() => tokenizePreferences(locate([row]), qwen2, { maxLength: 0 }), /maxLength: found 0/);
});

test("a prompt column of text beside conversations is not the prompt; equal beginnings are", () => {
  const ask = { role: "user", content: "Two?" };
  const row = {
    prompt: "Two?",
    chosen: [ask, { role: "assistant", content: "2" }],
    rejected: [ask, { role: "assistant", content: "3" }],
  };
  const { pairs } = tokenizePreferences(locate([row]), qwen2, chatml);
  assert.ok(text(pairs[0]!.chosen, false).endsWith("Two?<|im_end|>\n<|im_start|>assistant\n"));
  assert.equal(text(pairs[0]!.chosen, true), "2<|im_end|>\n");
});

test("pairs are taken apart for single answers; labels may be 0 and 1", () => {
  const pair = { prompt: "a", chosen: " b", rejected: " c" };
  const { answers } = tokenizeUnpaired(locate([pair, pair, { prompt: "a", completion: " d", label: 0 }]), qwen2);
  assert.deepEqual(
    answers.map(({ row, label }) => [text(row, true).replace("<|endoftext|>", "").replace("<|im_end|>", ""), label]),
    [
      [" b", true],
      [" b", true],
      [" c", false],
      [" c", false],
      [" d", false],
    ],
  );
});

test("prompts for generation keep the row's other columns, and end with what opens the answer", () => {
  const rows = [
    { prompt: "2 + 2 =", answer: 4 },
    { prompt: [{ role: "user", content: "2 + 2?" }], answer: "4", level: 1 },
  ];
  const [first, second] = tokenizePrompts(locate(rows), qwen2, chatml);
  assert.equal(qwen2.decode(first!.ids), "2 + 2 =");
  assert.deepEqual(first!.columns, { answer: 4 });
  assert.ok(qwen2.decode(second!.ids).endsWith("2 + 2?<|im_end|>\n<|im_start|>assistant\n"));
  assert.deepEqual(
    [second!.prompt, second!.columns, second!.where],
    [rows[1]!.prompt, { answer: "4", level: 1 }, "data.jsonl:2"],
  );
  const [cut] = tokenizePrompts(locate(rows), qwen2, { ...chatml, maxPromptLength: 2 });
  assert.equal(cut!.ids.length, 2);
  assert.ok("2 + 2 =".endsWith(qwen2.decode(cut!.ids)));
});

const BAD: [Row, RegExp][] = [
  [{ prompt: "a", chosen: "b" }, /data\.jsonl:1: rejected: found only \["prompt", "chosen"\]/],
  [{ prompt: "a", chosen: "b", rejectd: "c" }, /is "rejectd" meant to be "rejected"\?/],
  [{ prompt: 3, chosen: "b", rejected: "c" }, /data\.jsonl:1: prompt: found 3; expected a string/],
  [{ prompt: "a", chosen: "b", rejected: [{ role: "assistant", content: "c" }] }, /data\.jsonl:1: chosen: found "b"/],
  [{ chosen: [{ role: "user", content: "a" }], rejected: [{ role: "user", content: "b" }] }, /begin differently/],
  [
    { prompt: [{ role: "usr", content: "a" }], chosen: [{ role: "assistant", content: "b" }], rejected: [] },
    /data\.jsonl:1: rejected: found/,
  ],
];
for (const [row, message] of BAD) {
  test(`a malformed pair is an error that names it: ${JSON.stringify(row).slice(0, 60)}`, () => {
    assert.throws(() => tokenizePreferences(locate([row]), qwen2, chatml), { name: "FormatError", message });
  });
}

test("malformed single answers and prompts are errors that name them", () => {
  const single = (row: Row) => () => tokenizeUnpaired(locate([row]), qwen2);
  assert.throws(single({ prompt: "a", completion: "b", label: "good" }), /data\.jsonl:1: label: found "good"/);
  assert.throws(single({ prompt: "a", completion: "b" }), /data\.jsonl:1: label: found only/);
  assert.throws(() => tokenizePrompts(locate([{ promt: "a" }]), qwen2), /is "promt" meant to be "prompt"\?/);
});
