import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { availableParallelism, homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import { writeAtomically } from "../formats/atomic.ts";
import { FormatError, reason } from "../formats/errors.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { TokenizedRow } from "./collate.ts";
import { Dataset } from "./dataset.ts";
import { type DataFile, findDataFiles, type LoadOptions } from "./files.ts";
import { filesState, fingerprintFiles, fingerprintRows, preparedKey, tokenizerFingerprint } from "./fingerprint.ts";
import { fromHub } from "./hub-source.ts";
import type { LocatedRow } from "./jsonl.ts";
import { readLineBlocks } from "./jsonl.ts";
import type { RowOrigin } from "./origin.ts";
import { type Task, tokenizeTasks } from "./prepare-pool.ts";
import { PreparedFile, PreparedWriter } from "./prepared-file.ts";
import { isJsonLines, readRows } from "./read.ts";
import { addReport, emptyReport, nothingLeft, type RecipeReport } from "./recipe-report.ts";
import type { RecipeOptions } from "./recipes.ts";
import { memoryStore, type RowStore } from "./row-store.ts";
import { StreamingDataset } from "./streaming.ts";
import { rowsOfBlock, type TokenBlock } from "./token-block.ts";

/** How far a preparation is. */
export interface PrepareProgress {
  phase: "read" | "tokenize";
  /** Rows and tokens so far; while the source is read for its fingerprint, 0 for files. */
  rows: number;
  tokens: number;
  /** From 0 to 1; null where it cannot be told. */
  fraction: number | null;
}

export interface PrepareSettings extends LoadOptions {
  /** Folder of prepared data; by default `defaultCacheDir()`. Null: none, and the rows stay in memory. */
  cacheDir?: string | null;
  /** Threads that tokenize; by default as many as there are processors, at most 8. 0: this one. */
  workers?: number;
  onProgress?: (progress: PrepareProgress) => void;
}

/** Tokenized rows that are ready for training, read from disk one by one (or in memory, without a cache). */
export class PreparedDataset implements RowStore {
  readonly length: number;
  readonly report: RecipeReport;
  /** They were there already. */
  readonly fromCache: boolean;
  /** Where they are; null in memory. */
  readonly path: string | null;
  /** Tokens of the longest row. */
  readonly longest: number;
  /** The options they were prepared with, and which tokenizer (`tokenizerFingerprint`). */
  readonly recipe: Readonly<RecipeOptions>;
  readonly tokenizerKey: string;
  readonly #store: RowStore & { close?(): void };

  constructor(
    store: RowStore & { close?(): void },
    about: Pick<PreparedDataset, "report" | "fromCache" | "path" | "recipe" | "tokenizerKey">,
  ) {
    this.#store = store;
    this.length = store.length;
    this.report = about.report;
    this.fromCache = about.fromCache;
    this.path = about.path;
    this.recipe = about.recipe;
    this.tokenizerKey = about.tokenizerKey;
    let longest = 0;
    for (let i = 0; i < store.length; i++) longest = Math.max(longest, store.lengthOf(i));
    this.longest = longest;
  }

  lengthOf(index: number): number {
    return this.#store.lengthOf(index);
  }

  get(index: number): TokenizedRow {
    return this.#store.get(index);
  }

  /** Closes the file; rows can no longer be read. */
  dispose(): void {
    this.#store.close?.();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** XDG_CACHE_HOME/unsloth, or ~/.cache/unsloth. Its `prepared` may be deleted at any time. */
export function defaultCacheDir(): string {
  const base = process.env.XDG_CACHE_HOME;
  return join(base !== undefined && isAbsolute(base) ? base : join(homedir(), ".cache"), "unsloth");
}

/**
 * Tokenizes a data set once, in bounded memory, and keeps the result on disk, where the next run finds it: under a name
 * made of the data's contents, the tokenizer, its template and the options, so that a change of any prepares anew. A file
 * that does not match its checksum is made again.
 *
 *     const train = await prepareDataset("big.jsonl", tokenizer, { maxSeqLength: 2048, assistantOnlyLoss: true });
 *     const trainer = new SFTTrainer({ model, tokenizer, trainDataset: train });
 *
 * Throws `FormatError` at a malformed row (naming it), and if no row is left.
 */
export async function prepareDataset(
  source: string | readonly string[] | Dataset | StreamingDataset,
  tokenizer: Tokenizer,
  options: RecipeOptions = {},
  settings: PrepareSettings = {},
): Promise<PreparedDataset> {
  const isRows = source instanceof Dataset || source instanceof StreamingDataset;
  const recipe = isRows && source.responses !== null ? { ...options, responses: source.responses } : options;
  const { cacheDir = defaultCacheDir(), workers = Math.min(8, availableParallelism()) } = settings;
  if (!Number.isInteger(workers) || workers < 0) {
    throw new RangeError(`workers: found ${workers}; expected a non-negative integer`);
  }
  const input = isRows
    ? rowsInput(source)
    : await filesInput(await findDataFiles(source, { resolve: fromHub, ...settings }));
  const onProgress = settings.onProgress ?? (() => {});
  const made = { recipe, tokenizerKey: tokenizerFingerprint(tokenizer) };
  const build = (append: (block: TokenBlock) => Promise<void> | void): Promise<RecipeReport> =>
    tokenizeAll(input, { tokenizer, recipe, workers, onProgress, append });
  if (cacheDir === null) {
    const rows: TokenizedRow[] = [];
    const report = await build((block) => void rows.push(...rowsOfBlock(block)));
    return new PreparedDataset(memoryStore(rows), { ...made, report, fromCache: false, path: null });
  }
  const state = await input.state();
  const key = preparedKey(await input.fingerprint(onProgress), made.tokenizerKey, recipe);
  const folder = join(cacheDir, "prepared");
  const path = join(folder, `${key}.bin`);
  const found = await openIfGood(path);
  if (found !== null) {
    const report = relocated(found.details.report, found.details.files, input.files);
    return new PreparedDataset(found, { ...made, report, fromCache: true, path });
  }
  await makeFolder(folder);
  await removeLeftovers(folder);
  await writeAtomically(path, async (file) => {
    const writer = new PreparedWriter(file);
    const report = await build((block) => writer.append(block));
    if ((await input.state()) !== state) throw new Error(`${input.files.join(", ")} changed while being prepared`);
    await writer.finish({ report, files: input.files });
  });
  const store = await PreparedFile.open(path, { verify: false });
  return new PreparedDataset(store, { ...made, report: store.details.report, fromCache: false, path });
}

/** A source of rows, as tasks; `done` of each is the share of it that has then been read, if known. */
interface Input {
  files: string[];
  origin: RowOrigin | undefined;
  tasks(onShare: (fraction: number | null) => void): AsyncIterable<Task>;
  fingerprint(onProgress: (progress: PrepareProgress) => void): Promise<string[]>;
  state(): Promise<string>;
}

const ROWS_A_TASK = 256;

function rowsInput(source: Dataset | StreamingDataset): Input {
  const total = source instanceof Dataset ? source.length : null;
  return {
    files: [],
    origin: source.located().origin,
    async *tasks(onShare) {
      let count = 0;
      for await (const task of rowTasks(source.located())) {
        count += ROWS_A_TASK;
        onShare(total === null ? null : Math.min(1, count / total));
        yield task;
      }
    },
    fingerprint(onProgress) {
      let rows = 0;
      return fingerprintRows(source.located(), () => {
        if (++rows % 1000 !== 0) return;
        onProgress({ phase: "read", rows, tokens: 0, fraction: total === null ? null : rows / total });
      });
    },
    state: async () => "",
  };
}

async function filesInput(files: readonly DataFile[]): Promise<Input> {
  const sizes = await Promise.all(files.map(async ({ path }) => (await stat(path)).size));
  const total = sizes.reduce((sum, size) => sum + size, 0);
  return {
    files: files.map(({ path }) => path),
    origin: { files, read: 0 },
    async *tasks(onShare) {
      let before = 0;
      for (const [i, file] of files.entries()) {
        let read = 0;
        if (await isJsonLines(file)) {
          // Lines are parsed where they are tokenized.
          for await (const lines of readLineBlocks(file.path)) {
            read += lines.bytes.length;
            onShare(Math.min(1, (before + Math.min(read, sizes[i]!)) / total));
            yield { lines };
          }
        } else {
          for await (const task of rowTasks(readRows([file]))) yield task;
        }
        before += sizes[i]!;
        onShare(Math.min(1, before / total));
      }
    },
    fingerprint(onProgress) {
      let bytes = 0;
      return fingerprintFiles(files, (count) => {
        bytes += count;
        onProgress({ phase: "read", rows: 0, tokens: 0, fraction: Math.min(1, bytes / total) });
      });
    },
    state: () => filesState(files),
  };
}

async function* rowTasks(rows: Iterable<LocatedRow> | AsyncIterable<LocatedRow>): AsyncGenerator<Task> {
  let batch: LocatedRow[] = [];
  for await (const row of rows) {
    batch.push(row);
    if (batch.length < ROWS_A_TASK) continue;
    yield { rows: batch };
    batch = [];
  }
  if (batch.length > 0) yield { rows: batch };
}

async function tokenizeAll(
  input: Input,
  to: {
    tokenizer: Tokenizer;
    recipe: RecipeOptions;
    workers: number;
    onProgress: (progress: PrepareProgress) => void;
    append: (block: TokenBlock) => Promise<void> | void;
  },
): Promise<RecipeReport> {
  const report = emptyReport();
  let fraction: number | null = null;
  const tasks = input.tasks((share) => {
    fraction = share;
  });
  for await (const block of tokenizeTasks(tasks, to.tokenizer, to.recipe, to.workers)) {
    await to.append(block);
    addReport(report, block.report);
    to.onProgress({ phase: "tokenize", rows: report.rows, tokens: report.tokens, fraction });
  }
  if (report.rows === report.dropped) throw nothingLeft(report, to.recipe.maxSeqLength, input.origin);
  return report;
}

/** Null where there is no file, or one that is damaged: that is made again. */
async function openIfGood(path: string): Promise<PreparedFile | null> {
  const exists = await stat(path).then(
    () => true,
    () => false,
  );
  if (!exists) return null;
  try {
    return await PreparedFile.open(path);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    process.emitWarning(`${error.message}; the data set is prepared again`, "UnslothWarning");
    return null;
  }
}

/** A report that names rows by what their files are called now. */
function relocated(report: RecipeReport, before: readonly string[], now: readonly string[]): RecipeReport {
  const rename = (where: string): string => {
    const i = before.findIndex((path) => where.startsWith(path) && ":[".includes(where[path.length] ?? " "));
    return i === -1 ? where : now[i]! + where.slice(before[i]!.length);
  };
  return { ...report, droppedAt: report.droppedAt.map(rename) };
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (cause) {
    const message = `cacheDir: ${folder} cannot be made (${reason(cause)}); set XDG_CACHE_HOME, or pass another cacheDir, or null for none`;
    throw new Error(message, { cause });
  }
}

const A_DAY = 24 * 60 * 60 * 1000;

/** Temporary files of processes that were killed; those of running ones are younger. */
async function removeLeftovers(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!/^\..*\.tmp$/.test(name)) continue;
    const path = join(folder, name);
    const info = await stat(path).catch(() => null);
    if (info !== null && Date.now() - info.mtimeMs > A_DAY) await rm(path, { force: true });
  }
}
