import assert from "node:assert/strict";
import { test } from "node:test";
import { oracleJson } from "../testing/oracle.ts";
import { LearningRate } from "./learning-rate.ts";
import { scheduleSettings } from "./schedule.ts";

interface PlateauCases {
  readonly base_rate: number;
  readonly metrics: number[];
  readonly cases: { kwargs: Record<string, number | string>; rates: number[] }[];
}

const { base_rate: learningRate, metrics, cases } = oracleJson<PlateauCases>("schedules", "plateau.json");

const plateau = (settings: Record<string, number | string>, greaterIsBetter = false): LearningRate =>
  new LearningRate({
    type: "reduce_lr_on_plateau",
    learningRate,
    warmupSteps: 3,
    totalSteps: 10,
    settings,
    greaterIsBetter,
  });

for (const { kwargs, rates } of cases) {
  test(`reduce_lr_on_plateau ${JSON.stringify(kwargs)}: rates equal PyTorch's, across a restart too`, () => {
    let rate = plateau(kwargs);
    assert.ok(rate.watchesMetric);
    assert.equal(rate.at(0), learningRate, "there is no warm-up");
    metrics.forEach((metric, i) => {
      rate.observe(metric);
      assert.equal(rate.at(i), rates[i], `after metric ${i}`);
      const restored = plateau(kwargs);
      restored.restore(JSON.parse(JSON.stringify(rate.state())) as ReturnType<LearningRate["state"]>);
      rate = restored;
    });
  });
}

test("reduce_lr_on_plateau watches for the better direction of the metric", () => {
  const rate = plateau({ patience: 0 }, true);
  for (const metric of [0.1, 0.2, 0.3]) rate.observe(metric);
  assert.equal(rate.at(0), learningRate);
  rate.observe(0.3);
  assert.equal(rate.at(0), learningRate * 0.1);
});

test("a schedule by steps takes no notice of metrics, nor of another schedule's state", () => {
  const linear = new LearningRate({
    type: "linear",
    learningRate: 1,
    warmupSteps: 2,
    totalSteps: 6,
    settings: {},
    greaterIsBetter: false,
  });
  assert.ok(!linear.watchesMetric);
  linear.restore({ type: "reduce_lr_on_plateau", plateau: { rate: 9, best: 1, badEvaluations: 0, cooldownLeft: 0 } });
  linear.observe(5);
  assert.deepEqual(
    [0, 1, 2, 3, 4, 5].map((step) => linear.at(step)),
    [0, 0.5, 1, 0.75, 0.5, 0.25],
  );
});

test("settings that are words name the words", () => {
  assert.throws(() => scheduleSettings("reduce_lr_on_plateau", { mode: "up" }), /mode must be min, max; found "up"/);
  assert.throws(() => scheduleSettings("reduce_lr_on_plateau", { patience: "3" }), /patience must be a number/);
});
