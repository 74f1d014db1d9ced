import { number, record } from "./python-json-reader.ts";
import type { StepResult } from "./step.ts";

/** Sums a log row is made of, fit for JSON. */
interface Sums {
  /** Σ over steps of each window's mean loss. */
  loss: number;
  steps: number;
  microbatches: number;
  /** Sums over microbatches of what each reports. */
  metrics: Record<string, number>;
}

const emptySums = (): Sums => ({ loss: 0, steps: 0, microbatches: 0, metrics: {} });

/** Adds up losses and metrics between two log rows, and over the whole training. */
export class LossLog {
  private readonly filterNonFinite: boolean;
  private sums = emptySums();
  private totalLoss = 0;
  private totalSteps = 0;
  private last = { learningRate: 0, gradNorm: 0 };

  /** @param filterNonFinite count a loss that is not a number as the mean of those before it (logging_nan_inf_filter) */
  constructor(filterNonFinite: boolean) {
    this.filterNonFinite = filterNonFinite;
  }

  /** Optimizer steps since the last row. */
  get steps(): number {
    return this.sums.steps;
  }

  /** One microbatch; its loss is already its share of the window's mean. */
  add({ loss, metrics, logs }: StepResult): void {
    const { sums } = this;
    const replaced = this.filterNonFinite && !Number.isFinite(loss);
    const counted = replaced ? sums.loss / (1 + sums.steps) : loss;
    sums.loss += counted;
    this.totalLoss += counted;
    sums.microbatches++;
    const add = (key: string, value: number): void => {
      sums.metrics[key] = (sums.metrics[key] ?? 0) + value;
    };
    // As TRL: means of microbatches' means, whatever their numbers of tokens.
    if (metrics) {
      const { entropy, correct, targets } = metrics;
      add("entropy", targets > 0 ? entropy / targets : 0);
      add("mean_token_accuracy", targets > 0 ? correct / targets : 0);
    }
    for (const [key, value] of Object.entries(logs)) add(key, value);
  }

  /** A term of the window's loss that no microbatch has. */
  addTerm(value: number): void {
    if (this.filterNonFinite && !Number.isFinite(value)) return;
    this.sums.loss += value;
    this.totalLoss += value;
  }

  /** One optimizer step. */
  stepDone(learningRate: number, gradNorm: number): void {
    this.sums.steps++;
    this.totalSteps++;
    this.last = { learningRate, gradNorm };
  }

  /** The row since the last one: mean loss of the steps, last gradient norm and learning rate, means of the metrics. */
  take(): Record<string, number> {
    const { loss, steps, microbatches, metrics } = this.sums;
    this.sums = emptySums();
    const means = Object.entries(metrics).map(([key, value]) => [key, value / microbatches]);
    return {
      loss: loss / steps,
      grad_norm: this.last.gradNorm,
      learning_rate: this.last.learningRate,
      ...Object.fromEntries(means),
    };
  }

  /** Mean loss over all steps, those before a resume included. */
  overall(): number {
    return this.totalSteps > 0 ? this.totalLoss / this.totalSteps : 0;
  }

  state(): Record<string, unknown> {
    const { sums, totalLoss, totalSteps, last } = this;
    return { sums, total_loss: totalLoss, total_steps: totalSteps, last };
  }

  /** Go on from `state`. Throws FormatError naming file and field. */
  restore(state: Record<string, unknown>, file: string): void {
    const sums = record(state, "sums", file);
    const metrics = record(sums, "metrics", file);
    this.sums = {
      loss: number(sums, "loss", file),
      steps: number(sums, "steps", file),
      microbatches: number(sums, "microbatches", file),
      metrics: Object.fromEntries(Object.keys(metrics).map((key) => [key, number(metrics, key, file)])),
    };
    this.totalLoss = number(state, "total_loss", file);
    this.totalSteps = number(state, "total_steps", file);
    const last = record(state, "last", file);
    this.last = { learningRate: number(last, "learningRate", file), gradNorm: number(last, "gradNorm", file) };
  }
}
