import { FormatError } from "../formats/errors.ts";
import { noRows, type RowOrigin } from "./origin.ts";

/** Why a row was left out. */
export type DropReason = "equal" | "empty" | "cut";

/** What came of preference rows, to be shown. */
export interface PreferenceReport {
  rows: number;
  /** Rows left out: chosen and rejected are the same tokens; an answer is empty; no token of an answer was left. */
  dropped: Record<DropReason, number>;
  /** Where the first ones are. */
  droppedAt: string[];
  /** Sequences that lost tokens to a maximal length, and how many tokens that were. */
  truncated: number;
  tokensCut: number;
  /** Of the rows kept: tokens of all their sequences, and those of answers. */
  tokens: number;
  targets: number;
  /** Rows whose prompt alone is not how prompt and answer begin: the answer starts where they part. */
  movedBoundaries: number;
}

const NAMED_DROPS = 20;

export function emptyPreferenceReport(): PreferenceReport {
  return {
    rows: 0,
    dropped: { equal: 0, empty: 0, cut: 0 },
    droppedAt: [],
    truncated: 0,
    tokensCut: 0,
    tokens: 0,
    targets: 0,
    movedBoundaries: 0,
  };
}

export function countDrop(report: PreferenceReport, why: DropReason, where: string): void {
  report.dropped[why]++;
  if (report.droppedAt.length < NAMED_DROPS) report.droppedAt.push(where);
}

/** No row is left to train on. */
export function noPreferencesLeft({ rows, dropped, droppedAt }: PreferenceReport, origin?: RowOrigin): FormatError {
  if (rows === 0) return noRows(origin);
  const { equal, empty, cut } = dropped;
  const why = `${equal} with equal answers, ${empty} with an empty one, ${cut} whose answer is cut away`;
  return new FormatError({
    field: "data set",
    found: `${rows} rows, none of which is left (${why}; ${droppedAt.slice(0, 3).join(", ")} …)`,
    expected: "answers that differ and fit in maxLength",
  });
}
