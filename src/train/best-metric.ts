import { OptionError } from "../util/options.ts";
import type { LogRow } from "./callbacks.ts";

/** metricForBestModel as evaluations name it: with or without its "eval_" it is the same. */
export const metricKey = (name: string): string => (name.startsWith("eval_") ? name : `eval_${name}`);

/** metricForBestModel among an evaluation's metrics. Throws OptionError naming those there are. */
export function metricValue(metrics: LogRow, name: string): number {
  const key = metricKey(name);
  const value = metrics[key];
  if (value === undefined) {
    throw new OptionError(
      `metricForBestModel: the evaluation gave no "${key}"; it gave ${Object.keys(metrics).join(", ")}`,
    );
  }
  return value;
}
