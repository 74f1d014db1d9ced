import { Worker } from "node:worker_threads";
import { FormatError, reason } from "../formats/errors.ts";
import { ChatTemplateError } from "../tokenizer/chat-template.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { type LineBlock, type LocatedRow, parseLines } from "./jsonl.ts";
import { Recipe, type RecipeOptions } from "./recipes.ts";
import { type TokenBlock, tokenizeBlock } from "./token-block.ts";

/** Rows to tokenize, as they are or as lines of JSON. */
export type Task = { rows: LocatedRow[] } | { lines: LineBlock };

export interface WorkerData {
  files: ReadonlyMap<string, Uint8Array>;
  options: RecipeOptions;
}

/** An error as it crosses from one thread to another, which keeps no classes. */
export type ErrorMessage =
  | { kind: "format"; file: string | undefined; field: string; found: string; expected: string }
  | { kind: "template"; message: string }
  | { kind: "other"; message: string };

export type Answer = { block: TokenBlock } | { error: ErrorMessage };

/** Tasks done on the main thread before workers are started: they take a while to load a large vocabulary. */
const TASKS_ALONE = 4;
/** Tasks a worker has waiting, so that it need not wait itself. */
const TASKS_AHEAD = 2;

/**
 * Tokenizes tasks, in their order, on `workers` threads (0: on this one). At most a few tasks are held at a time.
 * Throws what the first failing task threw.
 */
export async function* tokenizeTasks(
  tasks: AsyncIterable<Task>,
  tokenizer: Tokenizer,
  options: RecipeOptions,
  workers: number,
): AsyncGenerator<TokenBlock> {
  const recipe = new Recipe(tokenizer, options);
  const pool: PoolWorker[] = [];
  const window: Promise<TokenBlock>[] = [];
  let count = 0;
  try {
    for await (const task of tasks) {
      if (workers === 0 || count++ < TASKS_ALONE) {
        yield runTask(recipe, task);
        continue;
      }
      if (pool.length < workers) pool.push(new PoolWorker({ files: tokenizer.files, options }));
      const least = pool.reduce((a, b) => (b.waiting < a.waiting ? b : a));
      const block = least.run(task);
      // It is awaited, in its turn, below; until then a failure is not unhandled.
      block.catch(() => {});
      window.push(block);
      if (window.length >= workers * TASKS_AHEAD) yield await window.shift()!;
    }
    while (window.length > 0) yield await window.shift()!;
  } finally {
    await Promise.all(pool.map((worker) => worker.terminate()));
  }
}

export function runTask(recipe: Recipe, task: Task): TokenBlock {
  return tokenizeBlock(recipe, "rows" in task ? task.rows : parseLines(task.lines));
}

/** One thread, which answers tasks in the order they were sent. */
class PoolWorker {
  readonly #worker: Worker;
  readonly #pending: { resolve: (block: TokenBlock) => void; reject: (error: Error) => void }[] = [];

  constructor(workerData: WorkerData) {
    this.#worker = startWorker(workerData);
    this.#worker.on("message", (answer: Answer) => {
      const task = this.#pending.shift()!;
      if ("block" in answer) task.resolve(answer.block);
      else task.reject(toError(answer.error));
    });
    this.#worker.on("error", (error) => this.#failAll(error));
    this.#worker.on("exit", (code) => this.#failAll(new Error(`a tokenizing thread ended (exit code ${code})`)));
  }

  get waiting(): number {
    return this.#pending.length;
  }

  run(task: Task): Promise<TokenBlock> {
    return new Promise((resolve, reject) => {
      this.#pending.push({ resolve, reject });
      if ("rows" in task) return this.#worker.postMessage(task);
      // Read chunks share their memory, which a copy would take along and a transfer would take away.
      const bytes = new Uint8Array(task.lines.bytes);
      this.#worker.postMessage({ lines: { ...task.lines, bytes } } satisfies Task, [bytes.buffer]);
    });
  }

  async terminate(): Promise<void> {
    this.#pending.length = 0;
    await this.#worker.terminate();
  }

  #failAll(error: Error): void {
    for (const { reject } of this.#pending.splice(0)) reject(error);
  }
}

/** Run from source, as tests are, a worker has to load what reads TypeScript itself: loaders are not inherited. */
function startWorker(workerData: WorkerData): Worker {
  if (!import.meta.url.endsWith(".ts"))
    return new Worker(new URL("./prepare-worker.js", import.meta.url), { workerData });
  const url = JSON.stringify(new URL("./prepare-worker.ts", import.meta.url).href);
  const load = `import("tsx/esm/api").then(({ register }) => { register(); return import(${url}); })`;
  return new Worker(load, { eval: true, execArgv: [], workerData });
}

export function toMessage(error: unknown): ErrorMessage {
  if (error instanceof FormatError) {
    const { file, field, found, expected } = error;
    return { kind: "format", file, field, found, expected };
  }
  if (error instanceof ChatTemplateError) return { kind: "template", message: error.message };
  return { kind: "other", message: reason(error) };
}

function toError(message: ErrorMessage): Error {
  if (message.kind === "format") return new FormatError(message);
  return message.kind === "template" ? new ChatTemplateError(message.message) : new Error(message.message);
}
