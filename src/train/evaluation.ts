import { type Batch, batchWeight } from "../data/collate.ts";
import type { BatchSource } from "./batches.ts";
import type { LogRow } from "./callbacks.ts";
import {
  type ComputeMetrics,
  type EvalPrediction,
  PredictionList,
  type PreprocessLogits,
  predictSequences,
} from "./predictions.ts";
import type { StepResult, StepRunner } from "./step.ts";

export interface EvaluationOptions {
  readonly runner: StepRunner;
  readonly batchSize: number;
  readonly computeMetrics: ComputeMetrics | null;
  readonly preprocess: PreprocessLogits | null;
  /** Call computeMetrics a batch and keep no predictions. */
  readonly batchEvalMetrics: boolean;
  /** Further fields of what computeMetrics gets: "inputs", "loss". */
  readonly include: readonly string[];
  /** Keep predictions whether or not there is a computeMetrics. */
  readonly keepPredictions: boolean;
  /** Before the metrics' names: "eval", "test". */
  readonly prefix: string;
  readonly onBatch: () => Promise<void>;
}

export interface Evaluation {
  /** Loss, computeMetrics' numbers, and speed, by their prefixed names. */
  readonly metrics: LogRow;
  /** Means that TRL adds to the log: entropy and mean_token_accuracy over trained tokens, and what the loss logs. */
  readonly tokenMetrics: LogRow;
  readonly prediction: EvalPrediction;
}

/**
 * Runs a data set through the model once, in order, without dropout. The loss is the mean over all trained tokens,
 * whatever the batch size; Hugging Face takes the mean of batches' means.
 */
export async function evaluateSource(source: BatchSource, options: EvaluationOptions): Promise<Evaluation> {
  const { runner, batchSize, computeMetrics, preprocess, include, prefix } = options;
  const started = performance.now();
  const wanted = options.keepPredictions || computeMetrics !== null;
  const means = new TokenMeans();
  const list = new PredictionList();
  let custom: LogRow = {};
  for await (const { batch, last } of withLast(source.batches(0, batchSize))) {
    const weight = batchWeight(batch);
    const scale = weight > 0 ? 1 / weight : 0;
    if (!wanted) {
      means.add(batch, await runner.evaluate(batch, scale));
    } else {
      const { hidden, ...result } = await runner.predict(batch, scale);
      means.add(batch, result);
      const sequences = await predictSequences(runner, batch, hidden, preprocess);
      if (options.keepPredictions || !options.batchEvalMetrics) list.add(sequences, result.loss);
      if (computeMetrics && options.batchEvalMetrics) {
        const one = new PredictionList();
        one.add(sequences, result.loss);
        custom = await computeMetrics(one.prediction(include), { computeResult: last });
      }
    }
    await options.onBatch();
  }
  const prediction = list.prediction(include);
  if (computeMetrics && !options.batchEvalMetrics) custom = await computeMetrics(prediction, { computeResult: true });
  const seconds = (performance.now() - started) / 1000;
  const prefixed = Object.entries(custom).map(([key, value]) => [
    key.startsWith(`${prefix}_`) ? key : `${prefix}_${key}`,
    value,
  ]);
  return {
    metrics: {
      ...Object.fromEntries(prefixed),
      [`${prefix}_loss`]: means.loss(),
      [`${prefix}_runtime`]: round(seconds, 4),
      [`${prefix}_samples_per_second`]: round(source.length / seconds, 3),
      [`${prefix}_steps_per_second`]: round(Math.ceil(source.length / batchSize) / seconds, 3),
    },
    tokenMetrics: Object.fromEntries(
      Object.entries(means.metrics()).map(([key, value]) => [`${prefix}_${key}`, value]),
    ),
    prediction,
  };
}

/** Means over trained tokens. */
class TokenMeans {
  private targets = 0;
  private weight = 0;
  private losses = 0;
  private readonly logs = new Map<string, number>();
  private sums: { entropy: number; correct: number } | null = null;

  /** A batch's loss and logs are means over its own targets, or what it weighs. */
  add(batch: Batch, { loss, metrics, logs }: StepResult): void {
    const weight = batchWeight(batch);
    this.targets += batch.numTargets;
    this.weight += weight;
    this.losses += loss * weight;
    for (const [key, value] of Object.entries(logs)) this.logs.set(key, (this.logs.get(key) ?? 0) + value * weight);
    if (!metrics) return;
    this.sums ??= { entropy: 0, correct: 0 };
    this.sums.entropy += metrics.entropy;
    this.sums.correct += metrics.correct;
  }

  loss(): number {
    return this.losses / this.weight;
  }

  metrics(): Record<string, number> {
    const logs = Object.fromEntries([...this.logs].map(([key, sum]) => [key, sum / this.weight]));
    if (!this.sums) return logs;
    return {
      ...logs,
      entropy: this.sums.entropy / this.targets,
      mean_token_accuracy: this.sums.correct / this.targets,
    };
  }
}

/** To a number of decimals, as Hugging Face rounds speeds. */
export function round(value: number, decimals: number): number {
  return Number(value.toFixed(decimals));
}

/** Items, each with whether it is the last one. */
async function* withLast(
  batches: Iterable<Batch> | AsyncIterable<Batch>,
): AsyncGenerator<{ batch: Batch; last: boolean }> {
  let held: Batch | null = null;
  for await (const batch of batches) {
    if (held) yield { batch: held, last: false };
    held = batch;
  }
  if (held) yield { batch: held, last: true };
}
