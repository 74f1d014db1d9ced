import assert from "node:assert/strict";
import { test } from "node:test";
import { collate } from "../data/collate.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import type { ComputeLoss } from "./loss.ts";
import * as ops from "./loss-ops.ts";
import { openBackend, quietTrainer, randomRow, randomRows, source, tinyPeft } from "./tiny-training.test.support.ts";

const backend = await openBackend();
const rows = [[randomRow(9, 1, 2)], [randomRow(12, 2, 3)]];
const batch = collate(rows);
const softmax = (row: Float32Array, temperature = 1): number[] => {
  const largest = Math.max(...row);
  const powers = Array.from(row, (x) => Math.exp((x - largest) / temperature));
  const total = powers.reduce((sum, x) => sum + x, 0);
  return powers.map((x) => x / total);
};

/** Focal loss (Lin et al. 2017), γ = 2: −(1 − p)²·log p. */
const focal: ComputeLoss = ({ trace, hidden, labels, lossScale }) => {
  const { logps } = trace.logProbs(hidden(), { labels });
  const doubt = ops.unary("square", ops.unary("shift", ops.exp(logps), -1));
  return { loss: ops.mul(ops.scale(ops.sum(ops.mul(doubt, logps)), -1), lossScale) };
};

test("focal loss in ops is the formula over the logits", async () => {
  using model = await tinyPeft(backend, { initLoraWeights: false });
  using trainer = quietTrainer(model, { train: source(rows), computeLoss: focal, args: {} });
  const { loss } = await trainer.runner.evaluate(batch, 1 / batch.numTargets);
  const { hidden } = await trainer.runner.predict(batch, 1);
  const logits = await trainer.runner.logits(hidden);
  const vocabulary = logits.length / batch.labels.length;
  let expected = 0;
  batch.labels.forEach((label, t) => {
    if (label < 0) return;
    const p = softmax(logits.subarray(t * vocabulary, (t + 1) * vocabulary))[label]!;
    expected -= ((1 - p) ** 2 * Math.log(p)) / batch.numTargets;
  });
  assert.ok(Math.abs(loss - expected) < 1e-5 * expected, `${loss}, ${expected}`);
});

test("distillation draws the student's distribution to another model's", async () => {
  const teacher = tinyModel(backend, "llama", { num_hidden_layers: 1 });
  using student = await tinyPeft(backend);
  const temperature = 2;
  const distil: ComputeLoss = ({ logits, traceWith, tokens, lossScale }) => {
    const trace = traceWith(null, teacher);
    const wanted = ops.logSoftmax(trace.logits(trace.hidden(tokens)), temperature);
    const found = ops.logSoftmax(logits(), temperature);
    const kl = ops.sumRows(ops.mul(ops.exp(wanted), ops.sub(wanted, found)));
    return { loss: ops.mul(ops.sum(kl), lossScale), logs: { kl: ops.mean(kl) } };
  };
  using trainer = quietTrainer(student, {
    train: source(randomRows(4)),
    computeLoss: distil,
    args: { maxSteps: 30, learningRate: 2e-2 },
  });
  // The traced divergence is the one of the logits of both.
  const { logs } = await trainer.runner.evaluate(batch, 1);
  const forward = async (name: string, model: typeof teacher | null): Promise<Float32Array> => {
    const { logits } = await trainer.runner.forward(batch, name, ({ traceWith, tokens }) => {
      const trace = model ? traceWith(null, model) : traceWith(student.adapter);
      return { logits: trace.logits(trace.hidden(tokens)) };
    });
    return logits!;
  };
  const [theirs, ours] = [await forward("teacher", teacher), await forward("student", null)];
  const tokens = batch.labels.length;
  const vocabulary = ours.length / tokens;
  let expected = 0;
  for (let t = 0; t < tokens; t++) {
    const row = (all: Float32Array) => softmax(all.subarray(t * vocabulary, (t + 1) * vocabulary), temperature);
    const q = row(ours);
    expected += row(theirs).reduce((sum, p, j) => sum + p * Math.log(p / q[j]!), 0) / tokens;
  }
  assert.ok(Math.abs(logs.kl! - expected) < 1e-4 * expected, `${logs.kl}, ${expected}`);
  await trainer.train();
  const kl = trainer.state.logHistory.flatMap((row) => (typeof row.kl === "number" ? [row.kl] : []));
  assert.ok(kl.at(-1)! < 0.6 * kl[0]!, `from ${kl[0]} to ${kl.at(-1)}`);
  teacher.dispose();
});
