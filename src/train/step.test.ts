import assert from "node:assert/strict";
import { test } from "node:test";
import { collate, vectorInput } from "../data/collate.ts";
import { mul } from "../ops/elementwise.ts";
import { sum } from "../ops/reduce.ts";
import { segmentSum } from "../ops/segment.ts";
import type { ComputeLoss } from "./loss.ts";
import { openBackend, quietTrainer, randomRow, source, tinyPeft } from "./tiny-training.test.support.ts";

const backend = await openBackend();
const rows = [[randomRow(9, 1, 2)], [randomRow(12, 2, 3)]];
const batch = {
  ...collate(rows),
  weight: 2,
  inputs: {
    weights: vectorInput(Float32Array.of(0.25, -2)),
    sequences: vectorInput(
      Int32Array.from({ length: collate(rows).inputIds.length }, (_, t) => (t < 9 ? 0 : t < 21 ? 1 : -1)),
    ),
  },
};

/** Σ weights·(log-probability of a sequence, less the reference's). */
const margin: ComputeLoss = ({ input, trace, traceWith, hidden, labels, tokens, lossScale }) => {
  const reference = traceWith(null);
  const summed = (logps: ReturnType<typeof trace.logProbs>) => segmentSum(logps.logps, input("sequences"), 2);
  const ours = summed(trace.logProbs(hidden(), { labels }));
  const theirs = summed(reference.logProbs(reference.hidden(tokens), { labels }));
  return {
    loss: mul(sum(mul(ours, input("weights"))), lossScale),
    logs: { reference: sum(theirs) },
    arrays: { ours },
    hostLogs: ({ ours }, batch) => ({ largest: Math.max(...ours!), sequences: batch.weight! }),
  };
};

test("a loss reads the batch's arrays and a model without its adapter", async () => {
  const model = await tinyPeft(backend, { initLoraWeights: false });
  using trainer = quietTrainer(model, { train: source(rows), computeLoss: margin, args: {} });
  const { runner } = trainer;
  const { loss, logs } = await runner.evaluate(batch, 0.5);
  const ask = (name: string) => (context: Parameters<ComputeLoss>[0]) => {
    const { logps } = context.trace.logProbs(context.hidden(), { labels: context.labels });
    return { [name]: segmentSum(logps, context.input("sequences"), 2) };
  };
  const { logps } = await runner.forward(batch, "logps", ask("logps"));
  assert.ok(Math.abs(loss - 0.5 * (0.25 * logps![0]! - 2 * logps![1]!)) < 1e-4);
  const alone = await model.disableAdapter(() => runner.forward(batch, "without", ask("logps")));
  assert.ok(Math.abs(logs.reference! - alone.logps![0]! - alone.logps![1]!) < 1e-4);
  assert.ok(Math.abs(logs.largest! - Math.max(...logps!)) < 1e-4);
  assert.equal(logs.sequences, 2);
  assert.notEqual(alone.logps![0], logps![0]);
  // The same program serves other contents.
  const other = { ...batch, inputs: { ...batch.inputs, weights: vectorInput(Float32Array.of(1, 1)) } };
  assert.ok(Math.abs((await runner.evaluate(other, 1)).loss - logps![0]! - logps![1]!) < 1e-4);
  model.dispose();
});

test("an input the batch does not have is named with those it has", async () => {
  const model = await tinyPeft(backend);
  const computeLoss: ComputeLoss = ({ input, ...rest }) => ({ loss: sum(input("wieghts")), ...rest });
  using trainer = quietTrainer(model, { train: source(rows), computeLoss, args: {} });
  await assert.rejects(trainer.runner.evaluate(batch, 1), /no input "wieghts"; it has weights, sequences/);
  model.dispose();
});

test("gradients through sequence sums equal those of the tokens' cross-entropy", async () => {
  const model = await tinyPeft(backend, { initLoraWeights: false });
  const gradients = async (computeLoss?: ComputeLoss): Promise<number[][]> => {
    using trainer = quietTrainer(model, { train: source(rows), computeLoss, args: {} });
    await trainer.runner.train(batch, 0.1, new Uint32Array(2));
    const { optimizer } = trainer;
    return Promise.all(
      optimizer.trainables.map(async (trainable) => {
        const bytes = await optimizer.gradient(trainable).read();
        return [...new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)];
      }),
    );
  };
  const negative: ComputeLoss = ({ input, trace, hidden, labels, lossScale }) => {
    const { logps } = trace.logProbs(hidden(), { labels });
    const minus = mul(segmentSum(logps, input("sequences"), 2), input("minus"));
    return { loss: mul(sum(minus), lossScale) };
  };
  batch.inputs = { ...batch.inputs, ...{ minus: vectorInput(Float32Array.of(-1, -1)) } };
  const [expected, actual] = [await gradients(), await gradients(negative)];
  expected.forEach((tensor, i) => {
    const largest = Math.max(...tensor.map(Math.abs));
    tensor.forEach((x, j) => assert.ok(Math.abs(x - actual[i]![j]!) <= 1e-5 * largest));
  });
  model.dispose();
});
