import { collate, type LocatedRows, type RecipeOptions, type RecipeReport, tokenizeRows } from "../../data/index.ts";
import type { CausalLM } from "../../models/model.ts";
import { Optimizer } from "../../optim/optimizer.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { StepRunner } from "../../train/step.ts";

export interface LossReport {
  /** Mean cross-entropy of a trained token, in nats. */
  readonly loss: number;
  /** exp(loss). */
  readonly perplexity: number;
  /** Share of trained tokens that were the most likely ones. */
  readonly tokenAccuracy: number;
  /** Mean entropy of the predictions, in nats. */
  readonly entropy: number;
  /** Tokens that counted. */
  readonly targets: number;
  readonly rows: RecipeReport;
}

export interface LossOptions extends RecipeOptions {
  readonly batchSize: number;
  readonly maxSeqLength: number;
  readonly onBatch?: (done: number, rows: number) => void;
}

/** Loss of a model on rows, over the tokens that training would have for targets. Throws FormatError at a malformed row. */
export async function evaluateLoss(
  lm: CausalLM,
  tokenizer: Tokenizer,
  located: LocatedRows,
  { batchSize, onBatch, ...recipe }: LossOptions,
): Promise<LossReport> {
  const { rows, report } = tokenizeRows(located, tokenizer, recipe);
  const adam = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, eightBit: false };
  const optimizer = new Optimizer(lm.backend, [], adam);
  const runner = new StepRunner({ model: lm, optimizer, policy: { kind: "keep" }, maxPositions: recipe.maxSeqLength });
  const sums = { crossEntropy: 0, correct: 0, entropy: 0, targets: 0 };
  try {
    for (let at = 0; at < rows.length; at += batchSize) {
      const batch = collate(rows.slice(at, at + batchSize).map((row) => [row]));
      const { metrics } = await runner.evaluate(batch, 1);
      for (const key of ["crossEntropy", "correct", "entropy", "targets"] as const) sums[key] += metrics![key];
      onBatch?.(Math.min(rows.length, at + batchSize), rows.length);
    }
  } finally {
    runner.dispose();
    optimizer.dispose();
  }
  const { crossEntropy, correct, entropy, targets } = sums;
  const loss = crossEntropy / targets;
  return {
    loss,
    perplexity: Math.exp(loss),
    tokenAccuracy: correct / targets,
    entropy: entropy / targets,
    targets,
    rows: report,
  };
}
