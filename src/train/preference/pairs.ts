import type { TokenizedRow } from "../../data/collate.ts";
import { type Dataset, type PreferenceOptions, type Row, tokenizePreferences } from "../../data/index.ts";
import { collatePairs, type PairBatchOptions, type ScoredPair } from "../../data/preference-batch.ts";
import { countTargets } from "../../data/recipe-report.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { PreferencePlan } from "./trainer.ts";

/** What of a trainer's settings is about its rows. */
export const dataOptions = (values: PreferenceOptions): PreferenceOptions => ({
  maxLength: values.maxLength ?? null,
  maxPromptLength: values.maxPromptLength ?? null,
  maxCompletionLength: values.maxCompletionLength ?? null,
  truncationMode: values.truncationMode ?? "keep_start",
});

/** How pairs are prepared for a trainer. */
export function pairPlan(
  tokenizer: Tokenizer,
  options: PreferenceOptions,
  batch: Omit<PairBatchOptions, "tokenScale">,
): Pick<PreferencePlan<ScoredPair>, "tokenize" | "rowsOf" | "batches" | "longest"> {
  const rowsOf = ({ chosen, rejected }: ScoredPair): readonly TokenizedRow[] => [chosen, rejected];
  return {
    tokenize(data: Dataset<Row>) {
      const { pairs, report } = tokenizePreferences(data.located(), tokenizer, options);
      return { items: pairs, report };
    },
    rowsOf,
    batches: {
      tokens: ({ chosen, rejected }) => chosen.inputIds.length + rejected.inputIds.length,
      // Nothing predicts a sequence's first token.
      plainTokens: ({ chosen }) => (batch.wholeChosen ? chosen.inputIds.length - 1 : countTargets(chosen)),
      collate: (pairs, tokenScale) => collatePairs(pairs, { ...batch, tokenScale }),
    },
    longest: (pairs) => longestRow(pairs.flatMap(rowsOf)),
  };
}

/** Tokens of the longest row. */
export const longestRow = (rows: readonly TokenizedRow[]): number =>
  rows.reduce((most, { inputIds }) => Math.max(most, inputIds.length), 0);
