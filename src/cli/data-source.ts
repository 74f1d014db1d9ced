import { downloadLines } from "../api/download-progress.ts";
import { Dataset } from "../data/index.ts";
import { FormatError } from "../formats/errors.ts";
import { resolveDataset } from "../hub/index.ts";
import { UsageError } from "./exit.ts";
import { type MethodSettings, required } from "./settings/train-settings.ts";

/** Rows of a file, a folder, a list of files, or a data set of the hub by its id. `split` as `Dataset.load` takes it. */
export function loadRows(source: string | readonly string[], split?: string): Promise<Dataset> {
  return Dataset.load(source, {
    ...(split !== undefined && { split }),
    resolve: (id) => resolveDataset(id, { onProgress: downloadLines(id) }),
  });
}

/** The rows to train on, and those held out, as the settings say. Throws UsageError when there are not so many. */
export async function loadTrainingRows({ data, args }: Pick<MethodSettings, "data" | "args">) {
  const source = required(data.data, "data", "FILE");
  const all = await loadRows(source, data.split);
  const held = evalSource(data);
  if (held !== null) return { trainDataset: all, evalDataset: await loadRows(held, data.evalSplit) };
  if (data.evalSize === null || all.length === 0) return { trainDataset: all, evalDataset: undefined };
  try {
    const { train, test } = all.trainTestSplit({ testSize: data.evalSize, seed: args.seed as number });
    return { trainDataset: train, evalDataset: test };
  } catch (error) {
    if (error instanceof FormatError) throw new UsageError(error.message.replace(/^testSize/, "eval_size"));
    throw error;
  }
}

/** Where held-out rows are, beside those to train on or in a part of them; null: nowhere. */
export const evalSource = (data: MethodSettings["data"]): string | readonly string[] | null =>
  data.evalData ?? (data.evalSplit === undefined ? null : data.data);
