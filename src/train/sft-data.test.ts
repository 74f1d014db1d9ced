import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { CpuBackend } from "../backends/cpu/backend.ts";
import {
  Dataset,
  type PrepareSettings,
  planPacks,
  prepareDataset,
  type RecipeOptions,
  StreamingDataset,
  tokenizeRows,
  trainOnResponsesOnly,
} from "../data/index.ts";
import { runtimes } from "../testing/kernels.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import { FIXTURES } from "../testing/tokenizer-fixtures.ts";
import { getChatTemplate, Tokenizer } from "../tokenizer/index.ts";
import { SFTTrainer } from "./sft.ts";
import { parseSft } from "./sft-config.ts";
import { recipeOptions, type SFTData, sftRows } from "./sft-data.ts";

const qwen2 = await Tokenizer.fromFolder(`${FIXTURES}qwen2`);
const folder = await mkdtemp(join(tmpdir(), "sft-data-"));
after(() => rm(folder, { recursive: true }));
const settings: PrepareSettings = { cacheDir: folder, workers: 0 };

const chats = Dataset.fromList(
  Array.from({ length: 40 }, (_, i) => ({
    messages: [
      { role: "user", content: `Say ${"so ".repeat(i % 5)}${i}.` },
      { role: "assistant", content: `${i}${", yes".repeat(i % 4)}` },
    ],
  })),
);
const sft = (data: SFTData, options: object = {}, maxSeqLength = 128, tokenizer = qwen2) =>
  sftRows(data, { ...parseSft({ ...options }), maxSeqLength, tokenizer, formattingFunc: undefined });
const all = ({ rows }: ReturnType<typeof sftRows>) => Array.from({ length: rows.length }, (_, i) => rows.get(i));

test("rows from disk are the rows in memory, packed or not, with the same report", async () => {
  const cases: object[] = [{}, { assistantOnlyLoss: true }];
  for (const packingStrategy of ["bfd", "bfd_split", "wrapped"]) cases.push({ packing: true, packingStrategy });
  for (const options of cases) {
    const maxSeqLength = 90;
    const recipe = recipeOptions(parseSft({ ...options }), maxSeqLength);
    using prepared = await prepareDataset(chats, qwen2, recipe, settings);
    const [disk, memory] = [sft(prepared, options, maxSeqLength), sft(chats, options, maxSeqLength)];
    assert.deepEqual(all(disk), all(memory), JSON.stringify(options));
    assert.deepEqual(disk.report, memory.report);
    for (let i = 0; i < disk.rows.length; i++) {
      assert.equal(
        disk.rows.lengthOf(i),
        disk.rows.get(i).reduce((sum, { inputIds }) => sum + inputIds.length, 0),
      );
    }
  }
  // Splitting strategies lose no token, so they get rows whole.
  const { report } = sft(chats, { packing: true, packingStrategy: "wrapped" }, 20);
  assert.equal(report.packing!.tokens, report.recipe.tokens);
  assert.equal(report.packing!.truncated, 0);
});

test("efficiency is that of the plan", () => {
  const { report, rows } = sft(chats, { packing: true });
  const lengths = tokenizeRows(chats.located(), qwen2).rows.map(({ inputIds }) => inputIds.length);
  assert.deepEqual(report.packing, planPacks(lengths, { maxSeqLength: 128 }).report);
  const tokens = Array.from({ length: rows.length }, (_, i) => rows.lengthOf(i)).reduce((a, b) => a + b);
  assert.equal(report.packing!.efficiency, tokens / (rows.length * 128));
});

test("shuffling before packing: on disk a permutation too, the same for a seed", async () => {
  using prepared = await prepareDataset(chats, qwen2, {}, settings);
  const shuffled = (seed: number) =>
    all(sftRows(prepared, { ...parseSft({}), maxSeqLength: 128, tokenizer: qwen2, formattingFunc: undefined }, seed));
  const texts = (rows: ReturnType<typeof all>): string[] => rows.map(([row]) => qwen2.decode(row!.inputIds));
  assert.deepEqual(shuffled(1), shuffled(1));
  assert.notDeepEqual(texts(shuffled(1)), texts(shuffled(2)));
  assert.deepEqual(texts(shuffled(1)).sort(), texts(all(sft(prepared))).sort());
});

test("data prepared in a way that does not fit is refused, with what to do", async () => {
  const refused = async (options: object, recipe: RecipeOptions, message: RegExp, length = 128, tokenizer = qwen2) => {
    using prepared = await prepareDataset(chats, qwen2, recipe, settings);
    assert.throws(() => sft(prepared, options, length, tokenizer), message);
  };
  await refused({}, {}, /rows have up to \d+ tokens: give prepareDataset maxSeqLength: 20 and prepare/, 20);
  await refused({ assistantOnlyLoss: true }, {}, /assistantOnlyLoss comes too late/);
  await refused({ completionOnlyLoss: true }, {}, /give prepareDataset trainOn: "completion"/);
  await refused({}, {}, /prepared with another tokenizer or chat template/, 128, getChatTemplate(qwen2, "chatml"));
  using masked = await prepareDataset(chats, qwen2, { responses: {} }, settings);
  assert.equal(sft(masked, { assistantOnlyLoss: true }).rows.length, 40);
  const streamed = StreamingDataset.from(() => chats) as unknown as Dataset;
  assert.throws(() => sft(streamed), /data is a StreamingDataset; give a Dataset, or prepareDataset/);
});

test("a text column: the one named, or by default the rows' shape", () => {
  const rows = Dataset.fromList([{ text: "as text", instruction: "Add.", output: "4", other: "as other" }]);
  const trained = (options: object): string => qwen2.decode(all(sft(rows, options))[0]![0]!.inputIds);
  assert.match(trained({}), /Add\./);
  assert.equal(trained({ datasetTextField: "text" }), "as text<|im_end|>");
  assert.equal(trained({ datasetTextField: "other" }), "as other<|im_end|>");
  assert.throws(() => trained({ datasetTextField: "txt" }), /row 0: textField "txt": found nothing in a row with/);
  // TRL's default name says nothing where there is no such column.
  assert.equal(all(sft(chats, { datasetTextField: "text" })).length, 40);
});

test("Unsloth's flow: format with a batched map, build the trainer, train on responses only", async () => {
  const [, runtime] = [...(await runtimes())][0]!;
  using model = tinyModel(new CpuBackend(runtime), "llama", { vocab_size: qwen2.vocabSize });
  const formattingPromptsFunc = ({ messages }: { messages: { role: string; content: string }[][] }) => ({
    text: messages.map((conversation) => qwen2.applyChatTemplate(conversation, { tokenize: false })),
  });
  const dataset = chats.map(formattingPromptsFunc, { batched: true });
  assert.deepEqual(dataset.columnNames, ["text"]);
  const empty = Dataset.fromList([{ text: "no turns" }]);
  const args = { outputDir: folder, perDeviceTrainBatchSize: 4, numTrainEpochs: 1, reportTo: "none" as const };
  using trainer = new SFTTrainer({
    model,
    tokenizer: qwen2,
    trainDataset: dataset.concatenate(empty, empty, empty, empty),
    evalDataset: { some: dataset.take(3) },
    datasetTextField: "text",
    maxSeqLength: 128,
    args: { ...args, disableTqdm: true },
  });
  assert.equal(trainer.steps.maxSteps, 11);
  const before = trainer.dataReport.recipe;
  assert.equal(trainOnResponsesOnly(trainer), trainer);
  const { recipe } = trainer.dataReport;
  assert.equal(recipe.dropped, 4);
  assert.equal(trainer.steps.maxSteps, 10);
  assert.equal(trainer.state.maxSteps, 10);
  const expected = tokenizeRows(chats.located(), qwen2, { assistantOnlyLoss: true });
  assert.equal(recipe.targets, expected.report.targets);
  assert.ok(recipe.targets < before.targets / 2);
  const [batch] = [...(trainer.options.train.batches(0, 40) as Iterable<{ numTargets: number }>)];
  assert.equal(batch!.numTargets, expected.report.targets);
  assert.throws(
    () => trainOnResponsesOnly(trainer, { responsePart: "### Response:", instructionPart: "### Instruction:" }),
    /found 44 rows, 44 of them \(row 0, row 1, row 2 …\) without a token to train on/,
  );
});
