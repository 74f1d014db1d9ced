import { stat } from "node:fs/promises";
import { downloadLines } from "../api/download-progress.ts";
import { findDataFiles } from "../data/files.ts";
import { holdOut } from "../data/hold-out.ts";
import {
  type Dataset,
  type PreparedDataset,
  prepareDataset,
  type RecipeOptions,
  StreamingDataset,
} from "../data/index.ts";
import { parseSplit } from "../data/split.ts";
import { resolveDataset } from "../hub/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { recipeOptions } from "../train/sft.ts";
import { parseSft } from "../train/sft-config.ts";
import { evalSource, loadTrainingRows } from "./data-source.ts";
import { required, type TrainSettings } from "./settings/train-settings.ts";
import { progressLine } from "./terminal.ts";

/** The rows to train on, and those held out. */
export interface TrainingData {
  readonly trainDataset: Dataset | PreparedDataset;
  readonly evalDataset: Dataset | PreparedDataset | undefined;
}

/** Data that has been found; what is large is tokenised once there is a tokenizer. */
export interface OpenedData {
  /** @param maxSeqLength the model's, where the settings have none */
  ready(tokenizer: Tokenizer, maxSeqLength: number, note: (line: string) => void): Promise<TrainingData>;
}

/** Bytes of data files from which rows are not kept in memory. */
const LARGE_BYTES = 256 * 2 ** 20;
/** What text shrinks to in a compressed file, about. */
const COMPRESSION = 4;

type Source = string | readonly string[];

/**
 * Finds the data of a training and reads what is small. With `streaming`, or at 256 MiB of files and more, rows are
 * tokenised into a file in the cache and read from there, so that data may be larger than memory.
 */
export async function openTrainingData(settings: TrainSettings): Promise<OpenedData> {
  const { data, args, sft } = settings;
  const source = required(data.data, "data", "FILE");
  const bytes = await bytesOf(source, data.split);
  // A share of the rows, or a count from their end, needs all of them first.
  const counted = /\[.*[%-]/.test(`${data.split ?? ""} ${data.evalSplit ?? ""}`);
  const streaming = data.streaming ?? (bytes >= LARGE_BYTES && !counted);
  if (!streaming) {
    const ready = await loadTrainingRows(settings);
    return { ready: () => Promise.resolve(ready) };
  }
  const held = evalSource(data);
  return {
    async ready(tokenizer, maxSeqLength, note) {
      const values = parseSft(sft);
      const recipe = recipeOptions(values, values.maxSeqLength ?? maxSeqLength);
      const prepare = (from: Source, split: string | undefined) => prepared(from, split, tokenizer, recipe, note);
      const all = await prepare(source, data.split);
      if (held !== null) return { trainDataset: all, evalDataset: await prepare(held, data.evalSplit) };
      if (data.evalSize === null) return { trainDataset: all, evalDataset: undefined };
      const { train, test } = holdOut(all, { testSize: data.evalSize, seed: args.seed as number });
      return { trainDataset: train, evalDataset: test };
    },
  };
}

async function prepared(
  source: Source,
  split: string | undefined,
  tokenizer: Tokenizer,
  recipe: RecipeOptions,
  note: (line: string) => void,
): Promise<PreparedDataset> {
  const options = { ...(split !== undefined && { split }), resolve };
  // Files that are taken whole are known again by their contents, without reading rows.
  const rows = parseSplit(split) === null ? source : await StreamingDataset.load(source, options);
  const line = progressLine("tokenising: percent");
  const data = await prepareDataset(rows, tokenizer, recipe, {
    ...options,
    onProgress: ({ fraction }) => line(Math.floor(100 * (fraction ?? 0)), 100),
  });
  line(100, 100);
  note(`${data.length} rows ${data.fromCache ? "found tokenised" : "tokenised"} in ${data.path}`);
  return data;
}

const resolve = (id: string): Promise<string> => resolveDataset(id, { onProgress: downloadLines(id) });

/** Bytes of the data files, compressed ones as they will be. */
async function bytesOf(source: Source, split: string | undefined): Promise<number> {
  const whole = parseSplit(split)?.split ?? split;
  const files = await findDataFiles(source, { ...(whole !== undefined && { split: whole }), resolve });
  const sizes = await Promise.all(
    files.map(async ({ path, format }) => {
      const { size } = await stat(path);
      return path.endsWith(".gz") || format === "parquet" ? COMPRESSION * size : size;
    }),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}
