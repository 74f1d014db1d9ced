import { existsSync, readFileSync } from "node:fs";
import { z } from "zod";
import { downloadLines } from "../api/download-progress.ts";
import { loadTokenizer } from "../api/fast-language-model.ts";
import { isAdapterFolder, locateBase, locateModel } from "../api/locate.ts";
import {
  Dataset,
  type LocatedRows,
  type LocatedStream,
  type PackingReport,
  type Preview,
  paintSample,
  planPacks,
  previewRows,
  type RecipeReport,
  StreamingDataset,
} from "../data/index.ts";
import { nothingLeft } from "../data/recipe-report.ts";
import { resolveDataset } from "../hub/index.ts";
import { getChatTemplate, type Tokenizer } from "../tokenizer/index.ts";
import { recipeOptions } from "../train/sft.ts";
import { parseSft, sftSchema } from "../train/sft-config.ts";
import { CliCommand } from "./command.ts";
import { UsageError } from "./exit.ts";
import { addSchemaFlags, schemaValues } from "./flags.ts";
import { checkedFlags } from "./loading.ts";
import { note, print } from "./terminal.ts";

/** Longest row where no --max-seq-length is given; that of `unsloth train`. */
const MAX_SEQ_LENGTH = 2048;

const previewSchema = z.strictObject({
  model: z.string().min(1).describe("whose tokenizer and chat template: folder, .gguf file, adapter, or id on the hub"),
  data: z.string().min(1).describe("rows: file, folder or hub id"),
  split: z.string().min(1).optional().describe('part of the data: train, "train[:1000]"'),
  rows: z.number().int().nonnegative().default(3).describe("samples to print"),
  limit: z.number().int().nonnegative().default(10_000).describe("rows to count; 0: all"),
  chatTemplate: z.string().min(1).optional().describe("a template by name (chatml, llama-3.1, …) or a Jinja file"),
  trainOnResponsesOnly: z
    .boolean()
    .default(false)
    .describe("train on responses only, in text that is a rendered conversation too"),
  instructionPart: z.string().min(1).optional().describe("what opens a user's turn; the template's when left out"),
  responsePart: z.string().min(1).optional().describe("what opens a response; the template's when left out"),
  json: z.boolean().default(false).describe("one JSON object with the samples' tokens"),
});

const maskSchema = sftSchema.pick({
  maxSeqLength: true,
  datasetTextField: true,
  completionOnlyLoss: true,
  assistantOnlyLoss: true,
  packing: true,
  packingStrategy: true,
});

const EXAMPLES = `
Examples:
  unsloth data preview --model Qwen/Qwen2.5-0.5B-Instruct --data train.jsonl --assistant-only-loss
  unsloth data preview --model ./model --data chats.parquet --rows 1 --packing --json`;

/** Where a preview is printed. */
export interface PreviewOutput {
  print(line?: string): void;
  /** What is beside the result: to standard error. */
  note(line: string): void;
  colours: boolean;
}

/** `unsloth data`: what training will see of a data set. */
export function dataCommand(out: PreviewOutput = { print, note, colours: useColours() }): CliCommand {
  const data = new CliCommand("data").description("look at training data");
  const preview = data
    .command("preview")
    .description("print rows as the model will see them, with what is trained on in colour, and count all rows");
  addSchemaFlags(preview, previewSchema);
  addSchemaFlags(preview, maskSchema);
  preview.addHelpText("after", EXAMPLES).action((flags: Readonly<Record<string, unknown>>) => runPreview(flags, out));
  return data.addHelpText("after", EXAMPLES) as CliCommand;
}

async function runPreview(given: Readonly<Record<string, unknown>>, out: PreviewOutput): Promise<void> {
  for (const name of ["model", "data"]) if (given[name] === undefined) throw new UsageError(`--${name} is missing`);
  const flags = checkedFlags(previewSchema, given);
  const sft = parseSft(schemaValues(maskSchema, given));
  const tokenizer = await tokenizerOf(flags.model, flags.chatTemplate);
  const parts = { instructionPart: unescaped(flags.instructionPart), responsePart: unescaped(flags.responsePart) };
  const wantsParts = Object.values(parts).some((part) => part !== undefined);
  const responses = flags.trainOnResponsesOnly || wantsParts ? defined(parts) : null;
  const maxSeqLength = sft.maxSeqLength ?? MAX_SEQ_LENGTH;
  const rows = await openRows(flags.data, flags.split);
  const preview = await previewRows(
    rows,
    tokenizer,
    { ...recipeOptions(sft, maxSeqLength), responses },
    { rows: flags.rows, limit: flags.limit === 0 ? Number.POSITIVE_INFINITY : flags.limit },
  );
  const packing = sft.packing
    ? planPacks(preview.lengths, { maxSeqLength, strategy: sft.packingStrategy }).report
    : null;
  if (flags.json)
    out.print(JSON.stringify({ samples: preview.samples, report: preview.report, packing, more: preview.more }));
  else printSamples(preview, out);
  const { report } = preview;
  if (report.rows === report.dropped) throw nothingLeft(report, maxSeqLength, rows.origin);
  if (flags.json) return;
  for (const line of summary(report, packing, maxSeqLength)) out.print(line);
  if (preview.more) out.note(`these are the first ${report.rows} rows; --limit 0 counts all`);
}

function printSamples({ samples }: Preview, { print, note, colours }: PreviewOutput): void {
  if (samples.length > 0 && !colours) note("[[ ]] is what the model is trained to produce");
  for (const [i, sample] of samples.entries()) {
    const trained = sample.tokens.filter((token) => token.trained).length;
    const cut = sample.cut > 0 ? `, ${sample.cut} cut off` : "";
    const left = sample.dropped ? " — left out" : "";
    print(`── row ${i + 1}: ${sample.where}: ${sample.tokens.length} tokens, ${trained} trained on${cut}${left}`);
    print(paintSample(sample, colours));
    print();
  }
}

/** The counts, in words. */
export function summary(report: RecipeReport, packing: PackingReport | null, maxSeqLength: number): string[] {
  const { rows, dropped, droppedAt, truncated, tokensCut, tokens, targets } = report;
  const share = tokens === 0 ? 0 : (100 * targets) / tokens;
  const lines = [`${rows - dropped} of ${rows} rows, ${tokens} tokens, ${targets} trained on (${share.toFixed(1)}%)`];
  if (dropped > 0) {
    const more = dropped > droppedAt.length ? ", …" : "";
    lines.push(`${dropped} left out, without a token to train on: ${droppedAt.join(", ")}${more}`);
  }
  if (truncated > 0) lines.push(`${truncated} cut to ${maxSeqLength} tokens, which lost ${tokensCut}`);
  if (packing !== null) {
    const full = `${(100 * packing.efficiency).toFixed(1)}% full`;
    lines.push(`packed into ${packing.packs} rows of ${maxSeqLength} tokens, ${full}`);
    if (packing.truncated > 0)
      lines.push(`${packing.truncated} cut in packing, which lost ${packing.tokensCut} tokens`);
  }
  return lines;
}

/** Of a model's folder or file, or of an adapter that has none of its base. */
async function tokenizerOf(model: string, chatTemplate: string | undefined): Promise<Tokenizer> {
  const { path } = await locateModel(model);
  const borrows = isAdapterFolder(path) && !existsSync(`${path}/tokenizer.json`);
  const tokenizer = await loadTokenizer(borrows ? (await locateBase(path)).path : path);
  if (chatTemplate === undefined) return tokenizer;
  if (!existsSync(chatTemplate)) return getChatTemplate(tokenizer, chatTemplate);
  return getChatTemplate(tokenizer, { template: readFileSync(chatTemplate, "utf8") });
}

async function openRows(source: string, split: string | undefined): Promise<LocatedRows | LocatedStream> {
  const options = {
    ...(split !== undefined && { split }),
    resolve: (id: string) => resolveDataset(id, { onProgress: downloadLines(id) }),
  };
  // A share of the rows, or a count from their end, needs all of them.
  if (split !== undefined && /\[.*[%-]/.test(split)) return (await Dataset.load(source, options)).located();
  return (await StreamingDataset.load(source, options)).located();
}

/** Colours in a terminal, unless NO_COLOR (no-color.org) says otherwise. */
function useColours(): boolean {
  return process.stdout.isTTY === true && (process.env.NO_COLOR ?? "") === "";
}

/** "\n" and "\t" as a shell passes them on. */
function unescaped(text: string | undefined): string | undefined {
  return text?.replaceAll("\\n", "\n").replaceAll("\\t", "\t");
}

const defined = (parts: Readonly<Record<string, string | undefined>>): Record<string, string> =>
  Object.fromEntries(Object.entries(parts).filter((entry): entry is [string, string] => entry[1] !== undefined));
