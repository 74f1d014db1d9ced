import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, beforeEach, test } from "node:test";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import { getChatTemplate } from "../tokenizer/chat-template-by-name.ts";
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import { Dataset } from "./dataset.ts";
import { defaultCacheDir, type PreparedDataset, type PrepareProgress, prepareDataset } from "./prepare.ts";
import { type RecipeOptions, tokenizeRows } from "./recipes.ts";
import { StreamingDataset } from "./streaming.ts";

const qwen2 = await Tokenizer.fromFolder(`${FIXTURES}qwen2`);
let folder = "";
const folders: string[] = [];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "prepare-"));
  folders.push(folder);
});
after(() => Promise.all(folders.map((path) => rm(path, { recursive: true }))));

const chats = Array.from({ length: 120 }, (_, i) => ({
  messages: [
    { role: "user", content: `What is ${i} + ${i * 7}? é漢🙂` },
    ...(i % 10 === 3 ? [] : [{ role: "assistant", content: `It is ${i * 8}.${" Indeed.".repeat(i % 9)}` }]),
  ],
}));
const lines = (rows: unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
async function write(name = "train.jsonl", text = lines(chats)): Promise<string> {
  await writeFile(join(folder, name), text);
  return join(folder, name);
}
const options: RecipeOptions = { assistantOnlyLoss: true, maxSeqLength: 110 };
const cached = (): { cacheDir: string; workers: number } => ({ cacheDir: join(folder, "cache"), workers: 0 });
const rowsOf = (prepared: PreparedDataset) => Array.from({ length: prepared.length }, (_, i) => prepared.get(i));

test("rows and report are those of tokenizeRows, prepared, from the cache, in memory, and from rows", async () => {
  const path = await write();
  const dataset = await Dataset.load(path);
  const expected = tokenizeRows(dataset.located(), qwen2, options);
  assert.equal(expected.report.dropped, 12);
  assert.ok(expected.report.truncated > 0);
  const first = await prepareDataset(path, qwen2, options, cached());
  const second = await prepareDataset(path, qwen2, options, cached());
  assert.deepEqual([first.fromCache, second.fromCache], [false, true]);
  const others = [
    await prepareDataset(path, qwen2, options, { cacheDir: null }),
    await prepareDataset(dataset, qwen2, options, cached()),
    await prepareDataset(await StreamingDataset.load(path), qwen2, options, cached()),
  ];
  // A data set and a stream of the same rows share their preparation.
  assert.deepEqual(
    others.map(({ fromCache }) => fromCache),
    [false, false, true],
  );
  for (const prepared of [first, second, ...others]) {
    assert.deepEqual(rowsOf(prepared), expected.rows);
    assert.deepEqual(prepared.report, expected.report);
    assert.equal(prepared.longest, 110);
    prepared.dispose();
  }
});

test("threads give the same rows in the same order", async () => {
  // Many small files, as a task is at least one of them.
  const paths: string[] = [];
  for (let i = 0; i < 12; i++) paths.push(await write(`${i}.jsonl`, lines(chats.slice(10 * i, 10 * i + 10))));
  const alone = await prepareDataset(paths, qwen2, options, { cacheDir: null, workers: 0 });
  const shared = await prepareDataset(paths, qwen2, options, { cacheDir: null, workers: 2 });
  assert.deepEqual(rowsOf(shared), rowsOf(alone));
  assert.deepEqual(shared.report, alone.report);
  const dataset = Dataset.fromList(Array.from({ length: 2000 }, (_, i) => ({ text: `row ${i}` })));
  const rows = await prepareDataset(dataset, qwen2, {}, { cacheDir: null, workers: 1 });
  assert.deepEqual(rowsOf(rows), tokenizeRows(dataset.located(), qwen2).rows);
});

test("what changes the rows makes a new preparation; what does not, does not", async () => {
  const path = await write("train.jsonl", lines(chats.slice(0, 20)));
  const base = await prepareDataset(path, qwen2, options, cached());
  const again = async (tokenizer = qwen2, changed: RecipeOptions = options): Promise<boolean> => {
    const prepared = await prepareDataset(path, tokenizer, changed, cached());
    prepared.dispose();
    return prepared.fromCache;
  };
  const files = Object.fromEntries(qwen2.files);
  assert.equal(await again(Tokenizer.fromFiles(files)), true);
  const other = Tokenizer.fromFiles(files);
  other.chatTemplate = `${qwen2.chatTemplate} `;
  assert.equal(await again(other), false);
  assert.equal(await again(getChatTemplate(qwen2, "chatml")), false);
  assert.equal(await again(qwen2, { ...options, maxSeqLength: 111 }), false);
  assert.equal(await again(qwen2, { ...options, assistantOnlyLoss: false }), false);
  assert.equal(await again(qwen2, { ...options, chatTemplate: other.chatTemplate! }), false);
  assert.equal(await again(qwen2, { maxSeqLength: 110, responses: {} }), false);
  assert.equal(await again(qwen2, { maxSeqLength: 110, responses: { responsePart: "<|im_start|>assistant" } }), false);
  assert.equal(await again(qwen2, { ...options, textField: "text" }), false);
  await utimes(path, new Date(), new Date());
  assert.equal(await again(), true);
  const text = await readFile(path, "utf8");
  await writeFile(path, text.replace("It is 8.", "It is 9."));
  assert.equal(await again(), false);
  await writeFile(path, text);
  assert.equal(await again(), true);
  base.dispose();
});

test("a file under another name is found, and its rows named by that", async () => {
  const path = await write();
  await prepareDataset(path, qwen2, options, cached());
  const moved = join(folder, "moved.jsonl");
  await rename(path, moved);
  const { fromCache, report } = await prepareDataset(moved, qwen2, options, cached());
  assert.equal(fromCache, true);
  assert.equal(report.droppedAt[0], `${moved}:4`);
});

test("a damaged cache is prepared again, with a warning", async () => {
  const path = await write();
  const good = await prepareDataset(path, qwen2, options, cached());
  const rows = rowsOf(good);
  const bytes = await readFile(good.path!);
  const warnings: string[] = [];
  const listen = ({ message }: Error): void => void warnings.push(message);
  process.on("warning", listen);
  for (const damage of [bytes.subarray(0, 100), Buffer.alloc(0), Buffer.from(bytes).fill(7, 40, 41)]) {
    await writeFile(good.path!, damage);
    const again = await prepareDataset(path, qwen2, options, cached());
    assert.equal(again.fromCache, false);
    assert.deepEqual(rowsOf(again), rows);
    assert.deepEqual(await readFile(good.path!), bytes);
  }
  await new Promise((resolve) => setImmediate(resolve));
  process.off("warning", listen);
  assert.equal(warnings.length, 3);
  assert.match(warnings[0]!, /expected .*; the data set is prepared again/);
});

test("errors name the row, leave nothing behind, and cross threads as they are", async () => {
  const bad = [...chats.slice(0, 5), { mesages: [] }];
  for (const workers of [0, 1]) {
    const paths = [];
    for (let i = 0; i < 6; i++) paths.push(await write(`${i}.jsonl`, lines(i === 5 ? bad : chats.slice(0, 2))));
    await assert.rejects(prepareDataset(paths, qwen2, options, { ...cached(), workers }), {
      name: "FormatError",
      message: /5\.jsonl:6: fields: found \["mesages"\]; .*is "mesages" meant to be "messages"\?/,
    });
    await write("5.jsonl", lines([...chats.slice(0, 2), { messages: [{ role: "user", content: "a" }] }]));
    const chatTemplate = "{{ raise_exception('no') }}";
    await assert.rejects(prepareDataset(paths, qwen2, { chatTemplate }, { ...cached(), workers }), {
      name: "ChatTemplateError",
      message: /0\.jsonl:1: no$/,
    });
  }
  assert.deepEqual(await readdir(join(folder, "cache", "prepared")), []);
  const text = await write("text.jsonl", '{"messages": [{"role": "user", "content": "a"}]}\n');
  await assert.rejects(prepareDataset(text, qwen2, options, cached()), /found 1 rows, 1 of them \(.*text\.jsonl:1 …\)/);
  await assert.rejects(prepareDataset(await write("none.jsonl", ""), qwen2, {}, cached()), /data set: found no rows/);
  await assert.rejects(prepareDataset(text, qwen2, {}, { workers: -1 }), /workers: found -1/);
  await assert.rejects(
    prepareDataset(text, qwen2, {}, { cacheDir: join(text, "x") }),
    /cacheDir: .* cannot be made .*null for none/,
  );
});

test("a data set marked by trainOnResponsesOnly is masked so", async () => {
  const dataset = Dataset.fromList(chats).trainOnResponsesOnly();
  const prepared = await prepareDataset(dataset, qwen2, { maxSeqLength: 110 }, { cacheDir: null });
  assert.deepEqual(rowsOf(prepared), tokenizeRows(dataset.located(), qwen2, options).rows);
});

test("progress goes up to the whole; formats other than JSON Lines; leftovers of killed processes go", async () => {
  const path = await write("a.csv", `text\n${Array.from({ length: 600 }, (_, i) => `row ${i}\n`).join("")}`);
  const seen: PrepareProgress[] = [];
  const prepared = join(folder, "cache", "prepared");
  await mkdir(prepared, { recursive: true });
  for (const [name, days] of [
    ["old", 2],
    ["new", 0],
  ] as const) {
    await writeFile(join(prepared, `.${name}.tmp`), "");
    const time = new Date(Date.now() - days * 86_400_000);
    await utimes(join(prepared, `.${name}.tmp`), time, time);
  }
  const { length } = await prepareDataset(
    path,
    qwen2,
    {},
    { ...cached(), onProgress: (progress) => seen.push(progress) },
  );
  assert.equal(length, 600);
  assert.deepEqual([...new Set(seen.map(({ phase }) => phase))], ["read", "tokenize"]);
  assert.equal(seen.at(-1)!.rows, 600);
  const json = await write("b.jsonl");
  seen.length = 0;
  await prepareDataset(json, qwen2, {}, { ...cached(), onProgress: (progress) => seen.push(progress) });
  assert.equal(seen.at(-1)!.fraction, 1);
  assert.deepEqual(
    (await readdir(prepared)).filter((name) => name.endsWith(".tmp")),
    [".new.tmp"],
  );
});

test("the default cache is where XDG says", () => {
  const before = process.env.XDG_CACHE_HOME;
  try {
    process.env.XDG_CACHE_HOME = "/somewhere";
    assert.equal(defaultCacheDir(), join("/somewhere", "unsloth"));
    process.env.XDG_CACHE_HOME = "relative";
    assert.match(defaultCacheDir(), /\.cache.unsloth$/);
  } finally {
    if (before === undefined) delete process.env.XDG_CACHE_HOME;
    else process.env.XDG_CACHE_HOME = before;
  }
});
