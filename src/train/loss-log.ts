import type { StepResult } from "./step.ts";

/** Adds up losses and metrics between two log rows, and over the whole training. */
export class LossLog {
  private loss = 0;
  private steps = 0;
  private sums = { correct: 0, entropy: 0, targets: 0 };
  private total = { loss: 0, steps: 0 };
  private learningRate = 0;
  private gradNorm = 0;

  /** One microbatch; its loss is already its share of the window's mean. */
  add({ loss, metrics }: StepResult): void {
    this.loss += loss;
    this.total.loss += loss;
    this.sums.correct += metrics.correct;
    this.sums.entropy += metrics.entropy;
    this.sums.targets += metrics.targets;
  }

  /** One optimizer step. */
  stepDone(learningRate: number, gradNorm: number): void {
    this.steps++;
    this.total.steps++;
    this.learningRate = learningRate;
    this.gradNorm = gradNorm;
  }

  /** The row since the last one: mean loss of the steps, last learning rate and norm, as Hugging Face and TRL log. */
  take(): Record<string, number> {
    const { correct, entropy, targets } = this.sums;
    const row = {
      loss: this.steps > 0 ? this.loss / this.steps : Number.NaN,
      grad_norm: this.gradNorm,
      learning_rate: this.learningRate,
      entropy: targets > 0 ? entropy / targets : 0,
      mean_token_accuracy: targets > 0 ? correct / targets : 0,
    };
    this.loss = this.steps = 0;
    this.sums = { correct: 0, entropy: 0, targets: 0 };
    return row;
  }

  /** Mean loss over all steps. */
  overall(): number {
    return this.total.steps > 0 ? this.total.loss / this.total.steps : Number.NaN;
  }
}
