import { OptionError } from "../util/options.ts";
import type { LogRow } from "./callbacks.ts";

/** metricForBestModel among an evaluation's metrics, with or without its "eval_". Throws OptionError naming those there are. */
export function metricValue(metrics: LogRow, name: string): number {
  const key = name.startsWith("eval_") ? name : `eval_${name}`;
  const value = metrics[key];
  if (value === undefined) {
    throw new OptionError(
      `metricForBestModel: the evaluation gave no "${key}"; it gave ${Object.keys(metrics).join(", ")}`,
    );
  }
  return value;
}
