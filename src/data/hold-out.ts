import { FormatError } from "../formats/errors.ts";
import { Rng } from "../util/rng.ts";
import { PreparedDataset } from "./prepare.ts";
import { countTargets, type RecipeReport } from "./recipe-report.ts";

/**
 * Prepared rows in two parts, as `Dataset.trainTestSplit` draws them: where no row was dropped the same rows are held out.
 * The parts read from the same file. Rows that were dropped or cut count with those to train on.
 */
export function holdOut(
  data: PreparedDataset,
  { testSize, seed }: { testSize: number; seed: number },
): { train: PreparedDataset; test: PreparedDataset } {
  const test = testSize > 0 && testSize < 1 ? Math.ceil(testSize * data.length) : testSize;
  if (!Number.isInteger(test) || test < 1 || test >= data.length) {
    const expected = data.length < 2 ? "two rows or more" : `a share between 0 and 1, or 1 to ${data.length - 1} rows`;
    throw new FormatError({ field: "testSize", found: `${testSize} of ${data.length} rows`, expected });
  }
  const order = new Rng(seed).permutation(data.length);
  const cut = data.length - test;
  const held = order.subarray(cut);
  const counts = { rows: held.length, tokens: 0, targets: 0 };
  for (const index of held) {
    counts.tokens += data.lengthOf(index);
    counts.targets += countTargets(data.get(index));
  }
  const { rows, tokens, targets, ...rest } = data.report;
  const others = { rows: rows - counts.rows, tokens: tokens - counts.tokens, targets: targets - counts.targets };
  return {
    train: part(data, order.subarray(0, cut), { ...others, ...rest }),
    test: part(data, held, { ...counts, dropped: 0, droppedAt: [], truncated: 0, tokensCut: 0 }),
  };
}

function part(data: PreparedDataset, indices: Uint32Array, report: RecipeReport): PreparedDataset {
  const store = {
    length: indices.length,
    lengthOf: (index: number) => data.lengthOf(indices[index]!),
    get: (index: number) => data.get(indices[index]!),
  };
  return new PreparedDataset(store, { ...data, report });
}
