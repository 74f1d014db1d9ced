import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import { dataCommand } from "./data.ts";

const folder = mkdtempSync(join(tmpdir(), "preview-"));
after(() => rmSync(folder, { recursive: true }));
const chat = (answer: string) => ({
  messages: [{ role: "user", content: "hi" }, ...(answer === "" ? [] : [{ role: "assistant", content: answer }])],
});
function write(name: string, rows: unknown[]): string {
  const path = join(folder, name);
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return path;
}
const data = write("chat.jsonl", [chat("yes"), chat(""), chat("no")]);
const model = `${FIXTURES}qwen2`;
const PROMPT =
  "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";

/** What `unsloth data preview` prints. */
async function preview(...args: string[]): Promise<string> {
  let text = "";
  const print = (line = ""): void => {
    text += `${line}\n`;
  };
  const command = dataCommand({ print, note: () => undefined, colours: false });
  await command.parseAsync(["preview", "--model", model, ...args], { from: "user" });
  return text;
}

test("samples in brackets, and the counts with rows left out by name", async () => {
  assert.equal(
    await preview("--data", data, "--assistant-only-loss", "--rows", "1"),
    `── row 1: ${data}:1: 43 tokens, 3 trained on\n${PROMPT}[[yes<|im_end|>]]\n\n\n` +
      "2 of 3 rows, 86 tokens, 6 trained on (7.0%)\n" +
      `1 left out, without a token to train on: ${data}:2\n`,
  );
});

test("JSON for machines", async () => {
  const { samples, report, packing, more } = JSON.parse(
    await preview(
      "--data",
      data,
      "--json",
      "--rows",
      "2",
      "--packing",
      "--max-seq-length",
      "48",
      "--assistant_only_loss",
    ),
  );
  assert.deepEqual(
    samples.map(({ where, dropped }: { where: string; dropped: boolean }) => [where, dropped]),
    [
      [`${data}:1`, false],
      [`${data}:2`, true],
    ],
  );
  assert.deepEqual(samples[0].tokens.at(-2), { id: 422, text: "<|im_end|>", trained: true });
  assert.equal(report.dropped, 1);
  assert.equal(packing.packs, 2);
  assert.equal(more, false);
});

test("other templates, rendered text and its parts, limits", async () => {
  const chatml = await preview("--data", data, "--chat-template", "chatml", "--assistant-only-loss", "--rows", "1");
  assert.match(
    chatml,
    /^── row 1: .*\n<\|im_start\|>user\nhi<\|im_end\|>\n<\|im_start\|>assistant\n\[\[yes<\|im_end\|>\]\]\n/,
  );
  const text = write("text.jsonl", [{ text: "Q: a\nA: b\nQ: c\nA: d" }]);
  const parts = ["--instruction-part", "\\nQ:", "--response-part", "\\nA:"];
  assert.match(await preview("--data", text, ...parts), /Q: a\nA:\[\[ b\]\]\nQ: c\nA:\[\[ d<\|im_end\|>\]\]\n/);
  assert.match(await preview("--data", data, "--limit", "1"), /\n1 of 1 rows, /);
  assert.match(await preview("--data", data, "--split", "train[-1:]", "--rows", "0"), /^1 of 1 rows, /);
});

test("all rows without a target is an error, and shows why; so are flags that do not fit", async () => {
  const empty = write("empty.jsonl", [chat("")]);
  await assert.rejects(preview("--data", empty, "--assistant-only-loss"), /found 1 rows, 1 of them .*empty\.jsonl:1/);
  await assert.rejects(preview(), { name: "UsageError", message: "--data is missing" });
  await assert.rejects(preview("--data", data, "--rows", "-1"), /--rows: .*found/);
  await assert.rejects(
    preview("--data", data, "--response-part", "### A"),
    /responsePart: found "### A"; expected what/,
  );
});
