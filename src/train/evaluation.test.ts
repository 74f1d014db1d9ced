import assert from "node:assert/strict";
import { test } from "node:test";
import { collate, type TokenizedRow } from "../data/collate.ts";
import { relativeError } from "../testing/kernels.ts";
import { forwardLogits } from "../testing/model-run.ts";
import { argmax, type EvalPrediction, type PreprocessLogits, predictSequences } from "./predictions.ts";
import { inFolder, openBackend, quietTrainer, randomRows, source, tinyPeft } from "./tiny-training.test.support.ts";
import type { Trainer, TrainerOptions } from "./trainer.ts";

const backend = await openBackend();
const VOCABULARY = 61;

/** A trainer whose adapter has been trained a little, so that it matters. */
async function trained<T>(
  options: Omit<Partial<TrainerOptions>, "args"> & { args?: Record<string, unknown> },
  use: (trainer: Trainer) => Promise<T>,
): Promise<T> {
  using model = await tinyPeft(backend);
  const { args, ...rest } = options;
  using trainer = quietTrainer(model, { train: source(randomRows(6)), ...rest, args: { maxSteps: 2, ...args } });
  await trainer.train();
  return await use(trainer);
}

const logitsOf = async (trainer: Trainer, rows: TokenizedRow[][]): Promise<Float32Array[]> =>
  forwardLogits(
    trainer.options.model.lm,
    rows.flat().map(({ inputIds }) => [...inputIds]),
  );

/** Labels that belong to the rows of logits: each token's is the next one's. */
const shifted = ({ labels }: TokenizedRow): number[] => [...labels.subarray(1), -100];

for (const chunkRows of [1, 3, 16, 10_000]) {
  test(`logits made ${chunkRows} rows at a time are those of the whole batch`, async () => {
    await trained({}, async (trainer) => {
      const rows = randomRows(3, 2, 5);
      const batch = collate(rows);
      const { hidden } = await trainer.runner.predict(batch, 1);
      const sequences = await predictSequences(trainer.runner, batch, hidden, null, chunkRows * 4 * VOCABULARY);
      const expected = await logitsOf(trainer, rows);
      assert.equal(sequences.length, 6);
      sequences.forEach(({ predictions, labels, inputs }, i) => {
        const row = rows.flat()[i]!;
        assert.deepEqual([predictions.rows, predictions.cols], [row.inputIds.length, VOCABULARY]);
        assert.ok(relativeError(predictions.data as Float32Array, expected[i]!) <= 1e-5);
        assert.deepEqual([...inputs], [...row.inputIds]);
        assert.deepEqual([...labels], shifted(row));
      });
      const kept = await predictSequences(trainer.runner, batch, hidden, argmax, chunkRows * 4 * VOCABULARY);
      kept.forEach(({ predictions: { data, cols } }, i) => {
        assert.equal(cols, 1);
        const logits = { data: expected[i]!, rows: expected[i]!.length / VOCABULARY, cols: VOCABULARY };
        assert.deepEqual([...data], [...argmax(logits, new Int32Array())]);
      });
    });
  });
}

/** Share of the asked tokens that are predicted. */
function accuracy({ predictions, labels }: EvalPrediction): { accuracy: number; asked: number } {
  let [asked, right] = [0, 0];
  predictions.forEach(({ data }, i) => {
    labels[i]!.forEach((label, t) => {
      if (label === -100) return;
      asked++;
      if (data[t] === label) right++;
    });
  });
  return { accuracy: right / asked, asked };
}

test("computeMetrics finds the accuracy that the loss reports, packed or not, whatever the batch", async () => {
  const rows = randomRows(6, 2, 8);
  const found = new Set<number>();
  for (const perDeviceEvalBatchSize of [1, 2, 5]) {
    for (const packed of [true, false]) {
      const evaluation = source(packed ? rows : rows.flat().map((row) => [row]));
      const args = { perDeviceEvalBatchSize };
      await trained(
        { evaluation, computeMetrics: accuracy, preprocessLogitsForMetrics: argmax, args },
        async (trainer) => {
          const metrics = await trainer.evaluate();
          assert.equal(metrics.eval_accuracy, metrics.eval_mean_token_accuracy);
          found.add(Math.round(metrics.eval_loss! * 1e5));
        },
      );
    }
  }
  assert.equal(found.size, 1, "the loss does not depend on how rows are batched");
});

test("batchEvalMetrics calls a batch at a time and tells the last", async () => {
  const calls: [number, boolean][] = [];
  const evaluation = source(randomRows(5, 1, 8));
  await trained(
    {
      evaluation,
      args: { batchEvalMetrics: true, perDeviceEvalBatchSize: 2, includeForMetrics: ["inputs", "loss"] },
      computeMetrics({ predictions, inputs, losses }, { computeResult }) {
        assert.equal(inputs!.length, predictions.length);
        assert.equal(losses!.length, predictions.length);
        calls.push([predictions.length, computeResult]);
        return { calls: calls.length };
      },
    },
    async (trainer) => {
      const metrics = await trainer.evaluate();
      assert.deepEqual(calls, [
        [2, false],
        [2, false],
        [1, true],
      ]);
      assert.equal(metrics.eval_calls, 3);
    },
  );
});

test("predictionLossOnly makes no logits", async () => {
  const computeMetrics = (): never => assert.fail("called");
  const options = { evaluation: source(randomRows(2)), computeMetrics, args: { predictionLossOnly: true } };
  await trained(options, async (trainer) => {
    assert.ok((await trainer.evaluate()).eval_loss! > 0);
    const { predictions, metrics } = await trainer.predict(source(randomRows(2)));
    assert.equal(predictions.length, 0);
    assert.ok(metrics.test_loss! > 0);
  });
});

test("several evaluation sets give metrics by their names", async () => {
  const evaluation = { easy: source(randomRows(2, 1, 3)), hard: source(randomRows(3, 1, 4)) };
  const args = { evalStrategy: "steps", evalSteps: 2, metricForBestModel: "hard_loss" };
  await trained({ evaluation, args }, async (trainer) => {
    const rows = trainer.state.logHistory;
    const [easy, hard] = [rows.find((row) => row.eval_easy_loss), rows.find((row) => row.eval_hard_loss)];
    assert.ok(easy && hard && easy !== hard);
    assert.equal(trainer.state.bestMetric, hard.eval_hard_loss);
    const all = await trainer.evaluate();
    assert.ok("eval_easy_loss" in all && "eval_hard_entropy" in all);
  });
});

test("predict gives logits, labels and metrics, and logs nothing", async () => {
  const rows = randomRows(3, 1, 6);
  await trained({ computeMetrics: ({ predictions }) => ({ sequences: predictions.length }) }, async (trainer) => {
    const logged = trainer.state.logHistory.length;
    const { predictions, labels, metrics } = await trainer.predict(source(rows));
    assert.equal(trainer.state.logHistory.length, logged);
    const expected = await logitsOf(trainer, rows);
    predictions.forEach(({ data }, i) => void assert.ok(relativeError(data as Float32Array, expected[i]!) <= 1e-5));
    assert.deepEqual(
      labels.map((row) => [...row]),
      rows.flat().map(shifted),
    );
    assert.equal(metrics.test_sequences, 3);
    assert.ok(metrics.test_loss! > 0 && metrics.test_runtime !== undefined);
  });
});

test("evaluating does not change what training does next", async () => {
  const run = (args: Record<string, unknown>) =>
    trained({ evaluation: source(randomRows(3, 1, 7)), args: { maxSteps: 4, ...args } }, async (trainer) =>
      trainer.state.logHistory.flatMap(({ loss }) => loss ?? []),
    );
  assert.deepEqual(await run({ evalStrategy: "steps", evalSteps: 1 }), await run({}));
});

test("a preprocessLogitsForMetrics that keeps something else says what it must keep", async () => {
  const wrong: [PreprocessLogits, RegExp][] = [
    [() => new Int32Array(2), /as many numbers for each of the \d+ rows; found 2 numbers/],
    [() => [1] as never, /found object/],
  ];
  for (const [preprocessLogitsForMetrics, message] of wrong) {
    const evaluation = source([[randomRows(1, 1, 3)[0]![0]!]]);
    await trained({ evaluation, computeMetrics: () => ({}), preprocessLogitsForMetrics }, async (trainer) => {
      await assert.rejects(trainer.evaluate(), message);
    });
  }
});

test("label smoothing counts in evaluation as in training", async () => {
  const evaluation = source(randomRows(2));
  const loss = (labelSmoothingFactor: number) =>
    trained(
      { evaluation, args: { learningRate: 0, labelSmoothingFactor } },
      async (trainer) => (await trainer.evaluate()).eval_loss!,
    );
  assert.notEqual(await loss(0), await loss(0.2));
});

test("a checkpoint saved in training is what is evaluated afterwards", async () => {
  await inFolder(async (outputDir) => {
    const evaluation = source(randomRows(3, 1, 7));
    const args = { outputDir, saveStrategy: "steps", saveSteps: 2, maxSteps: 2 };
    const expected = await trained({ evaluation, args }, (trainer) => trainer.evaluate());
    using model = await tinyPeft(backend, { randomState: 9 });
    using trainer = quietTrainer(model, { train: source(randomRows(6)), evaluation, args });
    await trainer.options.model.load(`${outputDir}/checkpoint-2`);
    assert.equal((await trainer.evaluate()).eval_loss, expected.eval_loss);
  });
});
