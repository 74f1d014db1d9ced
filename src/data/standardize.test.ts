import assert from "node:assert/strict";
import { test } from "node:test";
import { Dataset } from "./dataset.ts";
import { standardizeSharegpt } from "./standardize.ts";
import { StreamingDataset } from "./streaming.ts";

const rows = [
  {
    id: 1,
    conversations: [
      { from: "system", value: "s" },
      { from: "human", value: "q" },
      { from: "gpt", value: "a" },
    ],
  },
  { id: 2, messages: [{ role: "user", content: "q", name: "x" }] },
  { id: 3, conversation: [{ from: "human", value: "q" }], conversations: null },
];
const standard = [
  {
    id: 1,
    conversations: [
      { role: "system", content: "s" },
      { role: "user", content: "q" },
      { role: "assistant", content: "a" },
    ],
  },
  { id: 2, messages: [{ role: "user", content: "q", name: "x" }] },
  { id: 3, conversations: [{ role: "user", content: "q" }] },
];

test("ShareGPT's names become roles and contents; other fields stay", async () => {
  const dataset = standardizeSharegpt(Dataset.fromList(rows));
  assert.deepEqual([...dataset], standard);
  assert.deepEqual([...standardizeSharegpt(dataset)], standard);
  const streamed = standardizeSharegpt(StreamingDataset.from(() => rows));
  assert.deepEqual([...(await streamed.toDataset())], standard);
});

test("a conversation as JSON text, as CSV files have it", () => {
  const text = Dataset.fromList([{ conversations: JSON.stringify(rows[0]!.conversations) }]);
  assert.deepEqual(standardizeSharegpt(text).get(0), { conversations: standard[0]!.conversations });
});

test("roles of one's own, and roles nobody knows", () => {
  const odd = Dataset.fromList([{ conversations: [{ from: "instructor", value: "q" }] }]);
  assert.throws(
    () => standardizeSharegpt(odd),
    /row 0: conversations\[0\]\.role: found "instructor"; expected one of human/,
  );
  const [row] = standardizeSharegpt(odd, { aliasesForUser: ["instructor"] });
  assert.deepEqual(row, { conversations: [{ role: "user", content: "q" }] });
  assert.throws(() => standardizeSharegpt(Dataset.fromList([{ text: "a" }])), /row 0: fields: found \["text"\]/);
});
