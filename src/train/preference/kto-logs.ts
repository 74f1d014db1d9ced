import type { LogRow } from "../callbacks.ts";
import { SHARE_PREFIX } from "./kto-loss.ts";

/**
 * A row with means over each kind of answers, where the loss has given sums for each answer of a batch, and how many of
 * those are of the kind; a kind that there was none of is left out. Of several batches that is the mean over their
 * answers, where TRL takes the mean of batches' means.
 */
export function withMeansByKind(row: LogRow): LogRow {
  const means: [string, number][] = [];
  for (const [key, value] of Object.entries(row)) {
    if (key.includes(SHARE_PREFIX)) continue;
    const [, prefix, group, kind] = /^(.*?)(rewards|logps|logits)\/(chosen|rejected)$/.exec(key) ?? [];
    if (group === undefined) {
      means.push([key, value]);
      continue;
    }
    const share = row[`${prefix}${SHARE_PREFIX}${kind}${group === "logits" ? "_tokens" : ""}`] ?? 0;
    if (share > 0) means.push([key, value / share]);
    const margin = `${prefix}rewards/margins`;
    const made = new Map(means);
    const [chosen, rejected] = [made.get(`${prefix}rewards/chosen`), made.get(`${prefix}rewards/rejected`)];
    if (group === "rewards" && chosen !== undefined && rejected !== undefined) means.push([margin, chosen - rejected]);
  }
  return Object.fromEntries(means);
}
