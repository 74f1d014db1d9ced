import { downloadLines } from "../api/download-progress.ts";
import { Dataset } from "../data/index.ts";
import { resolveDataset } from "../hub/index.ts";

/** Rows of a file, a folder, a list of files, or a data set of the hub by its id. `split` as `Dataset.load` takes it. */
export function loadRows(source: string | readonly string[], split?: string): Promise<Dataset> {
  return Dataset.load(source, {
    ...(split !== undefined && { split }),
    resolve: (id) => resolveDataset(id, { onProgress: downloadLines(id) }),
  });
}
