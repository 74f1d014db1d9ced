import { IGNORE_INDEX, type TokenizedRow } from "./collate.ts";
import type { LocatedRow } from "./jsonl.ts";
import { emptyReport, type RecipeReport } from "./recipe-report.ts";
import type { Recipe } from "./recipes.ts";

/** Some tokenized rows in a compact form, which is also the form on disk. */
export interface TokenBlock {
  /** Of each row its ids, then [start, end) of each range of them that is trained on. */
  data: Int32Array;
  /** Of each row the numbers of its ids and of its ranges. */
  index: Uint32Array;
  report: RecipeReport;
}

/** Tokenizes rows; those without a target are left out. Throws as `Recipe.tokenize`. */
export function tokenizeBlock(recipe: Recipe, rows: Iterable<LocatedRow>): TokenBlock {
  const report = emptyReport();
  const index: number[] = [];
  let data = new Int32Array(4096);
  let used = 0;
  for (const located of rows) {
    const row = recipe.prepare(located, report);
    if (row === null) continue;
    const ranges = trainedRanges(row.labels);
    const length = row.inputIds.length + ranges.length;
    if (used + length > data.length) {
      const larger = new Int32Array(Math.max(2 * data.length, used + length));
      larger.set(data.subarray(0, used));
      data = larger;
    }
    data.set(row.inputIds, used);
    data.set(ranges, used + row.inputIds.length);
    used += length;
    index.push(row.inputIds.length, ranges.length / 2);
  }
  return { data: data.slice(0, used), index: Uint32Array.from(index), report };
}

/** The row whose ids and ranges are `data`. Throws `RangeError` where a range lies outside. */
export function rowOfBlock(data: Int32Array, length: number): TokenizedRow {
  const inputIds = data.subarray(0, length);
  const labels = new Int32Array(length).fill(IGNORE_INDEX);
  for (let at = length; at < data.length; at += 2) labels.set(inputIds.subarray(data[at]!, data[at + 1]!), data[at]!);
  return { inputIds, labels };
}

/** The rows of a block, as views of it. */
export function* rowsOfBlock({ data, index }: TokenBlock): Generator<TokenizedRow> {
  let at = 0;
  for (let i = 0; i < index.length; i += 2) {
    const [length, ranges] = [index[i]!, index[i + 1]!];
    const end = at + length + 2 * ranges;
    yield rowOfBlock(data.subarray(at, end), length);
    at = end;
  }
}

function trainedRanges(labels: Int32Array): number[] {
  const ranges: number[] = [];
  for (let i = 0; i < labels.length; i++) {
    const isTrained = labels[i] !== IGNORE_INDEX;
    if (isTrained !== (i > 0 && labels[i - 1] !== IGNORE_INDEX)) ranges.push(i);
  }
  if (ranges.length % 2 === 1) ranges.push(labels.length);
  return ranges;
}
