import { FormatError } from "../formats/errors.ts";
import { IGNORE_INDEX, type TokenizedRow } from "./collate.ts";
import { noRows, type RowOrigin } from "./origin.ts";

/** What came of the rows, to be shown. */
export interface RecipeReport {
  rows: number;
  /** Rows left out because no token of theirs would be trained on, and where the first ones are. */
  dropped: number;
  droppedAt: string[];
  /** Rows truncated to `maxSeqLength`, and the tokens that lost. */
  truncated: number;
  tokensCut: number;
  /** Of the rows kept: tokens, and those trained on. */
  tokens: number;
  targets: number;
}

const NAMED_DROPS = 20;

export function emptyReport(): RecipeReport {
  return { rows: 0, dropped: 0, droppedAt: [], truncated: 0, tokensCut: 0, tokens: 0, targets: 0 };
}

/** Adds a later part's counts to those of an earlier one. */
export function addReport(total: RecipeReport, part: RecipeReport): void {
  for (const key of ["rows", "dropped", "truncated", "tokensCut", "tokens", "targets"] as const)
    total[key] += part[key];
  total.droppedAt.push(...part.droppedAt.slice(0, NAMED_DROPS - total.droppedAt.length));
}

/** Counts a row; false if it has no target. */
export function countRow(report: RecipeReport, row: TokenizedRow, where: string): boolean {
  report.rows++;
  const targets = countTargets(row);
  if (targets === 0) {
    report.dropped++;
    if (report.droppedAt.length < NAMED_DROPS) report.droppedAt.push(where);
    return false;
  }
  report.tokens += row.inputIds.length;
  report.targets += targets;
  return true;
}

/** Labels that count: all but the first token's, which nothing predicts. */
export function countTargets({ labels }: TokenizedRow): number {
  let count = 0;
  for (let i = 1; i < labels.length; i++) if (labels[i] !== IGNORE_INDEX) count++;
  return count;
}

/** No row has a target. */
export function nothingLeft(
  { rows, dropped, droppedAt, truncated }: RecipeReport,
  maxSeqLength: number | undefined,
  origin?: RowOrigin,
): FormatError {
  if (rows === 0) return noRows(origin);
  const cut = truncated === 0 ? "" : `; ${truncated} rows lost their end to maxSeqLength ${maxSeqLength}`;
  return new FormatError({
    field: "data set",
    found: `${rows} rows, ${dropped} of them (${droppedAt.slice(0, 3).join(", ")} …) without a token to train on${cut}`,
    expected: 'responses that fit in maxSeqLength, or trainOn: "all"; `unsloth data preview` shows what is masked',
  });
}
