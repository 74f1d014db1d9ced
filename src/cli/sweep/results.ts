import { snake } from "../flags.ts";
import type { Given } from "../settings/train-settings.ts";
import { table } from "../terminal.ts";
import type { TrainingMetrics } from "../training.ts";
import { shown } from "./spec.ts";

/** What became of a run. */
export interface RunResult {
  readonly id: string;
  readonly folder: string;
  readonly options: Given;
  /** null: it failed. */
  readonly metrics: TrainingMetrics | null;
  readonly error: string | null;
}

export interface Ranking {
  readonly metric: string;
  readonly greaterIsBetter: boolean;
}

/** The best of the finished runs by a metric, or null when none has it. The first of equals. */
export function bestRun(results: readonly RunResult[], { metric, greaterIsBetter }: Ranking): RunResult | null {
  let best: RunResult | null = null;
  for (const result of results) {
    const value = result.metrics?.[metric];
    if (value === undefined || Number.isNaN(value)) continue;
    const other = best?.metrics?.[metric];
    if (other === undefined || (greaterIsBetter ? value > other : value < other)) best = result;
  }
  return best;
}

/** Results for people: a row a run, the best one marked. */
export function resultTable(results: readonly RunResult[], ranking: Ranking): string[] {
  const best = bestRun(results, ranking);
  const names = [...new Set(results.flatMap(({ options }) => [...options.keys()]))];
  const metrics = [...new Set([ranking.metric, "train_loss", "eval_loss", "train_runtime"])].filter((name) =>
    results.some((result) => result.metrics?.[name] !== undefined),
  );
  const rows = results.map((result) => [
    result === best ? "*" : "",
    result.id,
    ...names.map((name) => (result.options.has(name) ? shown(result.options.get(name)!.value) : "")),
    ...metrics.map((name) => number(result.metrics?.[name])),
    brief(result.error ?? ""),
  ]);
  const headings = ["", "run", ...names.map(snake), ...metrics, ""];
  const lines = table([headings, ...rows]);
  if (!best) return [...lines, `no run has ${ranking.metric}`];
  return [...lines, `best by ${ranking.metric}: ${best.folder}`];
}

const number = (value: number | undefined): string =>
  value === undefined ? "–" : String(Number(value.toPrecision(5)));

/** The whole message has been printed when the run failed. */
const brief = (text: string): string => (text.length > 60 ? `${text.slice(0, 60)}…` : text);
