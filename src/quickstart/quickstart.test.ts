import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { FastLanguageModel, loadTokenizer } from "../api/fast-language-model.ts";
import { openCpuBackend } from "../backends/cpu/backend.ts";
import { generate, promptIds } from "../index.ts";
import { EMBEDDED_MODEL, quickstart } from "./quickstart.ts";

const folder = mkdtempSync(join(tmpdir(), "quickstart-"));
after(() => rmSync(folder, { recursive: true, force: true }));

test("the embedded model's files are those that were recorded", () => {
  const lines = readFileSync(join(EMBEDDED_MODEL, "SHA256SUMS"), "utf8").trimEnd().split("\n");
  const recorded = new Map(lines.map((line) => line.split("  ").reverse() as [string, string]));
  const files = readdirSync(EMBEDDED_MODEL).filter((name) => name !== "SHA256SUMS");
  assert.deepEqual([...recorded.keys()].sort(), files.sort());
  for (const [name, digest] of recorded) {
    assert.equal(
      createHash("sha256")
        .update(readFileSync(join(EMBEDDED_MODEL, name)))
        .digest("hex"),
      digest,
      name,
    );
  }
});

test("its tokenizer gives the corpus back, and every digit is a token", async () => {
  const script = join(EMBEDDED_MODEL, "..", "..", "scripts", "embedded-model", "corpus.mjs");
  const { corpus, rowTexts } = (await import(pathToFileURL(script).href)) as {
    corpus(count: number, seed: number): Iterable<unknown>;
    rowTexts(row: unknown): string[];
  };
  const tokenizer = await loadTokenizer(EMBEDDED_MODEL);
  let [tokens, bytes] = [0, 0];
  for (const row of corpus(2000, 2026)) {
    for (const text of rowTexts(row)) {
      const ids = tokenizer.encode(text);
      assert.equal(tokenizer.decode(ids), text);
      assert.ok(
        ids.every((id) => !/\d./.test(tokenizer.decode([id]))),
        text,
      );
      tokens += ids.length;
      bytes += Buffer.byteLength(text);
    }
  }
  assert.ok(bytes / tokens > 1.5, `${bytes} bytes in ${tokens} tokens`);
});

test("it loads in 4 bits and answers what it was pre-trained for", async () => {
  const backend = await openCpuBackend({ threads: 1 });
  const { model, tokenizer } = await FastLanguageModel.fromPretrained({ modelName: EMBEDDED_MODEL, backend });
  assert.equal(model.config.family, "qwen2");
  const prompts = ["What is 6×7?", "23加45等于多少？"].map((prompt) => promptIds(tokenizer, prompt));
  const answers = await generate(model, tokenizer, prompts, { maxNewTokens: 24 });
  assert.deepEqual(
    answers.map(({ text }) => /=(\d+)/.exec(text)?.[1]),
    ["42", "68"],
  );
  backend.dispose();
});

test("options that are none end in one line and an exit code", () => {
  const entry = fileURLToPath(new URL(import.meta.url.endsWith(".ts") ? "main.ts" : "main.js", import.meta.url));
  const run = (...args: string[]) => {
    const { status, stderr } = spawnSync(process.execPath, [...process.execArgv, entry, ...args], { encoding: "utf8" });
    return [status, stderr.trimEnd()];
  };
  assert.deepEqual(run("--threads", "two"), [1, 'quickstart: --threads: found "two"; expected a whole number']);
  const [status, said] = run("--steps", "3");
  assert.equal(status, 1);
  assert.match(String(said), /^quickstart: Unknown option '--steps'[^\n]*$/);
});

test("three steps write an adapter, the rows and both reports", async () => {
  const settings = { trainRows: 30, testProblems: 3, maxSteps: 3, quiet: true };
  const report = await quickstart({ output: folder, ...settings });
  assert.deepEqual(JSON.parse(readFileSync(join(folder, "report.json"), "utf8")), report);
  assert.equal(report.steps, 3);
  for (const share of [report.accuracyBefore, report.accuracyAfter]) assert.ok(share >= 0 && share <= 1);
  for (const name of [
    "lossFirst",
    "lossLast",
    "tokensPerSecond",
    "peakBytes",
    "peakProcessBytes",
    "seconds",
  ] as const) {
    assert.ok(Number.isFinite(report[name]) && report[name] > 0, `${name}: ${report[name]}`);
  }
  assert.ok(report.lossLast < report.lossFirst);
  assert.ok(report.peakBytes < report.peakProcessBytes);
  assert.ok(report.seconds >= report.secondsBefore + report.secondsTraining);
  const page = readFileSync(join(folder, "report.html"), "utf8");
  assert.equal(page.match(/<svg/g)?.length, 2);
  assert.doesNotMatch(page, /src=|href=|@import|undefined|NaN/);
  assert.equal(readFileSync(join(folder, "train.jsonl"), "utf8").split("\n").length, 31);
  for (const name of ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]) {
    assert.ok(existsSync(join(folder, "adapter", name)), name);
  }
});
