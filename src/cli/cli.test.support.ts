import { spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { openCpuBackend } from "../backends/cpu/backend.ts";
import { createRandomModel } from "../models/load/random.ts";
import { saveModel } from "../models/save.ts";
import { tinyConfig } from "../testing/tiny-model.ts";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import { run } from "./program.ts";
import { redirect } from "./terminal.ts";

/** A folder with a small random chat model (model/), rows to train on (train.jsonl) and rows held out (test.jsonl). */
export interface Workplace extends Disposable {
  readonly folder: string;
  readonly model: string;
  readonly train: string;
  readonly test: string;
}

const TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

/** @param overrides of the model's config.json */
export async function makeWorkplace(overrides: Readonly<Record<string, unknown>> = {}): Promise<Workplace> {
  const folder = mkdtempSync(join(tmpdir(), "unsloth-cli-"));
  const model = join(folder, "model");
  using backend = await openCpuBackend({ threads: 1 });
  const own = { vocab_size: 448, torch_dtype: "float32", max_position_embeddings: 256, ...overrides };
  const config = tinyConfig("qwen2", own);
  await saveModel(await createRandomModel({ config, backend, seed: 7 }), model);
  for (const name of TOKENIZER) cpSync(`${FIXTURES}qwen2/${name}`, join(model, name));
  const rows = (from: number, to: number): string =>
    Array.from({ length: to - from }, (_, i) => {
      const [a, b] = [(from + i) % 7, (from + i) % 5];
      return JSON.stringify({ instruction: `${a}+${b}=?`, input: "", output: `answer: ${a + b}` });
    }).join("\n");
  const [train, test] = [join(folder, "train.jsonl"), join(folder, "test.jsonl")];
  writeFileSync(train, rows(0, 24));
  writeFileSync(test, rows(24, 32));
  mkdirSync(join(folder, "out"));
  return { folder, model, train, test, [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) };
}

export interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line in this process. */
export async function here(...args: readonly string[]): Promise<Ran> {
  let [stdout, stderr] = ["", ""];
  redirect({
    out: (text) => {
      stdout += text;
    },
    err: (text) => {
      stderr += text;
    },
  });
  try {
    const code = await run(args);
    return { code, stdout, stderr };
  } finally {
    redirect();
  }
}

/** Runs the command line in a process of its own. */
export function unsloth(
  args: readonly string[],
  options: { input?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<Ran> {
  const extension = extname(import.meta.url);
  const main = fileURLToPath(new URL(`./main${extension}`, import.meta.url));
  const loader = extension === ".ts" ? ["--import", "tsx"] : [];
  const child = spawn(process.execPath, [...loader, main, ...args], { env: { ...process.env, ...options.env } });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (piece) => {
    stdout += piece;
  });
  child.stderr.on("data", (piece) => {
    stderr += piece;
  });
  child.stdin.end(options.input ?? "");
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
}
