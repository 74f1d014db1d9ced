import { OptionError } from "../util/options.ts";
import { metricKey } from "./best-metric.ts";
import type { CallbackContext, CallbackState, LogRow, TrainerCallback } from "./callbacks.ts";

export interface EarlyStoppingOptions {
  /** Evaluations in a row that may fail to improve the metric. Default 1. */
  readonly earlyStoppingPatience?: number;
  /** By how much the metric must improve to count. Default 0. */
  readonly earlyStoppingThreshold?: number;
}

/**
 * Stops training when metricForBestModel has not improved for a number of evaluations: Hugging Face's
 * EarlyStoppingCallback. Throws OptionError when training begins without the settings it needs.
 */
export class EarlyStoppingCallback implements TrainerCallback {
  private readonly patience: number;
  private readonly threshold: number;
  private withoutImprovement = 0;

  constructor({ earlyStoppingPatience = 1, earlyStoppingThreshold = 0 }: EarlyStoppingOptions = {}) {
    if (!Number.isInteger(earlyStoppingPatience) || earlyStoppingPatience < 1) {
      throw new OptionError(`earlyStoppingPatience must be a positive integer, found ${earlyStoppingPatience}`);
    }
    this.patience = earlyStoppingPatience;
    this.threshold = earlyStoppingThreshold;
  }

  onTrainBegin({ args }: CallbackContext): void {
    if (args.metricForBestModel === null) {
      throw new OptionError('EarlyStoppingCallback needs metricForBestModel, e.g. "loss" (or loadBestModelAtEnd)');
    }
    if (args.evalStrategy === "no") {
      throw new OptionError('EarlyStoppingCallback needs evalStrategy "steps" or "epoch"');
    }
  }

  onEvaluate({ args, state, control }: CallbackContext, metrics: LogRow): void {
    const value = metrics[metricKey(args.metricForBestModel!)];
    // Of several data sets it is one that has the metric; that none has is the trainer's error.
    if (value === undefined) return;
    const { bestMetric } = state;
    const better = bestMetric === null || (args.greaterIsBetter ? value > bestMetric : value < bestMetric);
    const enough = bestMetric === null || Math.abs(value - bestMetric) > this.threshold;
    this.withoutImprovement = better && enough ? 0 : this.withoutImprovement + 1;
    if (this.withoutImprovement >= this.patience) control.shouldTrainingStop = true;
  }

  saveState(): CallbackState {
    return {
      args: { early_stopping_patience: this.patience, early_stopping_threshold: this.threshold },
      attributes: { early_stopping_patience_counter: this.withoutImprovement },
    };
  }

  restoreState({ attributes }: CallbackState): void {
    const counter = attributes.early_stopping_patience_counter;
    if (typeof counter === "number") this.withoutImprovement = counter;
  }
}
