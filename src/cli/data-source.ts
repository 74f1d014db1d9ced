import { downloadLines } from "../api/download-progress.ts";
import { Dataset } from "../data/index.ts";
import { FormatError } from "../formats/errors.ts";
import { resolveDataset } from "../hub/index.ts";
import { UsageError } from "./exit.ts";

/** Rows of a file, a folder, a list of files, or a data set of the hub by its id. `split` as `Dataset.load` takes it. */
export function loadRows(source: string | readonly string[], split?: string): Promise<Dataset> {
  return Dataset.load(source, {
    ...(split !== undefined && { split }),
    resolve: (id) => resolveDataset(id, { onProgress: downloadLines(id) }),
  });
}

/** Rows held out as the setting evalSize says. Throws UsageError when there are not so many. */
export function holdOutRows(all: Dataset, evalSize: number, seed: number): { train: Dataset; test: Dataset } {
  try {
    return all.trainTestSplit({ testSize: evalSize, seed });
  } catch (error) {
    if (error instanceof FormatError) throw new UsageError(error.message.replace(/^testSize/, "eval_size"));
    throw error;
  }
}
