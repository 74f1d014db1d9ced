import type { Batch, TokenizedRow } from "../../data/collate.ts";
import type { Forward } from "../loss.ts";
import type { StepRunner } from "../step.ts";
import { type ReferenceData, readReference, referenceKey, referencePath, writeReference } from "./reference-cache.ts";
import type { ItemSource } from "./source.ts";

/** An item that can carry the reference's two numbers about it. */
export interface Scorable {
  readonly reference?: readonly [number, number];
}

export interface PrecomputeOptions<T extends Scorable> extends Omit<ReferenceData, "rows"> {
  readonly runner: StepRunner;
  readonly source: ItemSource<T>;
  readonly batchSize: number;
  /** Folder of kept numbers; undefined: the library's cache; null: none. */
  readonly cacheDir: string | null | undefined;
  readonly rowsOf: (item: T) => readonly TokenizedRow[];
  readonly collate: (items: readonly T[]) => Batch;
  readonly forward: Forward;
  /** What `forward` gave for a batch, two numbers an item. */
  readonly numbers: (outputs: Record<string, Float32Array>, index: number, count: number) => readonly [number, number];
}

/** Gives every item of a source the reference's numbers: kept ones, or by running the reference over all of it once. */
export async function precompute<T extends Scorable>(options: PrecomputeOptions<T>): Promise<void> {
  const { lm, scorer, settings, cacheDir, source, rowsOf } = options;
  const { items } = source;
  const path =
    cacheDir === null
      ? null
      : referencePath(cacheDir, await referenceKey({ lm, scorer, settings, rows: items.map(rowsOf) }));
  const kept = path === null ? null : await readReference(path, items.length);
  const numbers = kept ?? (await run(options));
  if (!kept && path !== null) await writeReference(path, numbers);
  items.forEach((item, i) => {
    items[i] = { ...item, reference: [numbers[2 * i]!, numbers[2 * i + 1]!] };
  });
}

async function run<T extends Scorable>(options: PrecomputeOptions<T>): Promise<Float32Array> {
  const { runner, source, batchSize, collate, forward, numbers } = options;
  const { items } = source;
  const all = new Float32Array(2 * items.length);
  for (let at = 0; at < items.length; at += batchSize) {
    const batch = items.slice(at, at + batchSize);
    const outputs = await runner.forward(collate(batch), "reference", forward);
    for (let i = 0; i < batch.length; i++) all.set(numbers(outputs, i, batch.length), 2 * (at + i));
  }
  return all;
}
