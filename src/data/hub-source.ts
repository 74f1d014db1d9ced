import type { DatasetResolver } from "./files.ts";

/** Data sets of the Hugging Face hub, downloaded into its cache. Loaded when one is asked for. */
export const fromHub: DatasetResolver = async (id) => (await import("../hub/index.ts")).resolveDataset(id);
