import assert from "node:assert/strict";
import { test } from "node:test";
import { oracleJson } from "../testing/oracle.ts";
import { type ScheduleOptions, type SchedulerType, scheduleFactor, scheduleSettings, warmupSteps } from "./schedule.ts";

interface Schedules {
  readonly total_steps: number;
  readonly base_rate: number;
  readonly cases: {
    name: SchedulerType;
    warmup_steps: number;
    kwargs: Record<string, number | string>;
    factors: number[];
  }[];
}

const {
  total_steps: totalSteps,
  base_rate: learningRate,
  cases,
} = oracleJson<Schedules>("schedules", "schedules.json");

for (const { name, warmup_steps, kwargs, factors } of cases) {
  test(`${name}, warm-up ${warmup_steps}, ${JSON.stringify(kwargs)}: factors equal transformers'`, () => {
    const settings = scheduleSettings(name, kwargs);
    const options: ScheduleOptions = { type: name, learningRate, warmupSteps: warmup_steps, totalSteps, settings };
    factors.forEach((factor, step) => {
      const got = scheduleFactor(step, options);
      assert.ok(Math.abs(got - factor) <= 1e-12, `step ${step}: ${got}, expected ${factor}`);
    });
  });
}

test("warm-up below one is a share of the steps, rounded up", () => {
  assert.equal(warmupSteps({ warmupSteps: 7, warmupRatio: 0.5 }, 100), 7);
  assert.equal(warmupSteps({ warmupSteps: 0.03, warmupRatio: 0 }, 101), 4);
  assert.equal(warmupSteps({ warmupSteps: 0, warmupRatio: 0.1 }, 101), 11);
  assert.equal(warmupSteps({ warmupSteps: 0, warmupRatio: 0 }, 101), 0);
});

test("a misspelt setting names the nearest right one", () => {
  assert.throws(
    () => scheduleSettings("cosine_with_min_lr", { min_lr_rat: 0.1 }),
    /no setting "min_lr_rat"; did you mean "minLrRate"/,
  );
  assert.throws(() => scheduleSettings("linear", { power: 2 }), /takes none/);
  assert.throws(() => scheduleSettings("warmup_stable_decay", { decay_type: "square" }), /linear, cosine, 1-sqrt/);
});
