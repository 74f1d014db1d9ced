import assert from "node:assert/strict";
import { test } from "node:test";
import { relativeError } from "../../testing/kernels.ts";
import { oracleFloats, oracleJson, oraclePath, oracleTensors } from "../../testing/oracle.ts";
import { backend, data, type OracleCase, policyModel, trainerOf } from "./parity.test.support.ts";

interface BatchCase extends OracleCase {
  readonly rows?: readonly number[];
  readonly reference?: string;
  readonly loss: number;
  readonly metrics: Record<string, number>;
}

const { cases } = oracleJson<{ cases: BatchCase[] }>("preference", "cases.json");
const gradients = oracleTensors("preference", "gradients.safetensors");
/** Set PARITY_REPORT=1 to see the errors. */
const report = process.env.PARITY_REPORT ? console.log : () => {};

/** Relative error; of numbers near 0, that of `least`. */
const relative = (own: number, theirs: number, least = 2e-2): number =>
  Math.abs(own - theirs) / Math.max(least, Math.abs(theirs));

for (const { trainer: kind, name, options, rows: picked, reference, loss, metrics } of cases) {
  test(`${kind} ${name}: loss, metrics and gradients are TRL's`, async () => {
    using model = await policyModel();
    if (reference) await model.loadAdapter(oraclePath("preference", reference), "other");
    const all = kind === "kto" ? data.singles : data.batch;
    const rows = picked ? picked.map((i) => all[i]!) : all;
    const more = { perDeviceTrainBatchSize: rows.length, maxSteps: 1, ...(reference && { refAdapterName: "other" }) };
    using trainer = trainerOf({ trainer: kind, options }, model, { train: rows }, more);
    const { train } = trainer.options;
    const [batch] = [...(train.batches(0, rows.length) as Iterable<Parameters<typeof trainer.runner.train>[0]>)];
    assert.equal(batch!.weight, rows.length);
    const result = await trainer.runner.train(batch!, 1 / rows.length, new Uint32Array(2));

    const lossError = relative(result.loss, loss);
    const history: Record<string, number>[] = [];
    trainer.addCallback({ onLog: (_, row) => void history.push(row) });
    await trainer.log({ ...result.logs });
    const { epoch: _, ...own } = history[0]!;
    assert.deepEqual(new Set(Object.keys(own)), new Set(Object.keys(metrics)));
    // TRL logs 0 where the plain loss has no weight.
    const compared = Object.entries(metrics).filter(([key, value]) => key !== "nll_loss" || value !== 0);
    const metricErrors = compared.map(([key, value]) => [key, relative(own[key]!, value)] as const);
    let worst = 0;
    for (const trainable of trainer.optimizer.trainables) {
      const grad = new Float32Array((await trainer.optimizer.gradient(trainable).read()).buffer);
      const error = relativeError(grad, oracleFloats(gradients, `${kind} ${name}/${trainable.name}`));
      worst = Math.max(worst, error);
      assert.ok(error <= 1e-4, `${trainable.name}: relative error ${error}`);
    }
    report(kind, name, "loss", lossError, "metrics", Math.max(...metricErrors.map(([, e]) => e)), "gradients", worst);
    assert.ok(lossError <= 1e-4, `loss is ${result.loss}, expected ${loss}`);
    for (const [key, error] of metricErrors)
      assert.ok(error <= 1e-4, `${key} is ${own[key]}, expected ${metrics[key]}`);
  });
}

interface Trajectory extends OracleCase {
  readonly reference?: "initial";
  readonly log_history: Record<string, number>[];
}

/** Evaluations are means over answers and tokens here, and means of batches' means in TRL. */
const differsInEvaluation = ({ trainer }: OracleCase, key: string): boolean =>
  trainer === "kto" ? /^eval_(rewards|logps|logits)/.test(key) : trainer !== "dpo" && key === "eval_loss";

for (const run of oracleJson<Trajectory[]>("preference", "trajectories.json")) {
  test(`${run.name}: twenty steps of losses, metrics and evaluations are TRL's`, async () => {
    using model = await policyModel();
    const single = run.trainer === "kto";
    const rows = {
      train: single ? data.train_singles : data.train,
      evaluation: single ? data.eval_singles : data.eval,
    };
    using trainer = trainerOf(run, model, rows, {
      perDeviceTrainBatchSize: 2,
      perDeviceEvalBatchSize: 2,
      ...(run.reference && { refModel: null }),
      maxSteps: 20,
      warmupSteps: 3,
      weightDecay: 0.01,
      evalStrategy: "steps",
      evalSteps: 10,
    });
    await trainer.train();
    const own = trainer.state.logHistory;
    assert.equal(own.length, run.log_history.length);
    let worst = 0;
    // Log ratios are differences of log-probabilities of tens, of which float32 has no more digits; rewards are β of them.
    const ratio = 0.2;
    const reward = ratio * (single || run.trainer === "dpo" ? Number(run.options.beta ?? 0.1) : 0.1);
    run.log_history.forEach((row, i) => {
      for (const [key, value] of Object.entries(row)) {
        if (differsInEvaluation(run, key)) continue;
        const least = key.includes("rewards/") ? reward : key.endsWith("kl") ? ratio : 2e-2;
        const error = relative(own[i]![key]!, value, least);
        worst = Math.max(worst, error);
        assert.ok(error <= 1e-4, `row ${i}: ${key} is ${own[i]![key]}, expected ${value}`);
      }
    });
    report(run.name, "trajectory", worst);
  });
}

test.after(() => backend.dispose());
