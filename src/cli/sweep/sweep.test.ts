import assert from "node:assert/strict";
import { readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { here, makeWorkplace } from "../cli.test.support.ts";
import { UsageError } from "../exit.ts";
import { bestRun, type RunResult } from "./results.ts";
import { label, sweepSpec } from "./spec.ts";

const labels = (section: unknown, grids: string[] = []) => sweepSpec(section, "c.yaml:1", grids).runs.map(label);

test("every combination of a grid, in order", () => {
  const expected = ["r=8 bias=none", "r=8 bias=all", "r=16 bias=none", "r=16 bias=all"];
  assert.deepEqual(labels({ parameters: { r: [8, 16], bias: ["none", "all"] } }), expected);
  assert.deepEqual(labels({ r: [8, 16], bias: ["none", "all"] }), expected, "the short form");
  assert.deepEqual(labels({}, ["r=8,16", "bias=none,all"]), expected, "flags");
  assert.deepEqual(labels({ r: [1, 2, 3] }, ["r=8"]), ["r=8"], "flags win");
  assert.deepEqual(labels({}, ["target_modules=[q_proj],[q_proj,v_proj]"]), [
    'target_modules=["q_proj"]',
    'target_modules=["q_proj","v_proj"]',
  ]);
});

test("a list of runs, with options of their own", () => {
  assert.deepEqual(labels({ runs: [{ r: 8 }, { learningRate: 1e-4, packing: true }] }), [
    "r=8",
    "learning_rate=0.0001 packing=true",
  ]);
});

const WRONG: readonly (readonly [section: unknown, message: RegExp])[] = [
  [{}, /c\.yaml:1: nothing to try/],
  [{ parameters: { rnk: [1] } }, /c\.yaml:1: unknown option "rnk"/],
  [{ parameters: { r: [8, 0] } }, /c\.yaml:1: r: expected a rank of at least 1, found 0/],
  [{ parameters: { r: 8 } }, /sweep: parameters\.r: .*expected array/],
  [{ parameters: { r: [1] }, runs: [{}] }, /not both/],
  [{ runs: [], metric: "x" }, /sweep: runs: /],
  [{ metrik: "x", parameters: { r: [1] } }, /unknown option "metrik"; did you mean "metric"/],
  [[1], /expected options with lists of values/],
  [{ seed: Array.from({ length: 1001 }, (_, i) => i) }, /more than 1000 runs/],
];
for (const [section, message] of WRONG) {
  test(`a sweep of ${JSON.stringify(section).slice(0, 40)} is a usage error`, () => {
    assert.throws(
      () => labels(section),
      (error: unknown) => error instanceof UsageError && message.test(error.message),
    );
  });
}

test("best by a metric; runs without it do not count", () => {
  const run = (id: string, value?: number): RunResult => ({
    id,
    folder: id,
    options: new Map(),
    metrics: value === undefined ? null : { acc: value },
    error: null,
  });
  const runs = [run("a"), run("b", 0.5), run("c", Number.NaN), run("d", 0.7), run("e", 0.7)];
  assert.equal(bestRun(runs, { metric: "acc", greaterIsBetter: true })!.id, "d");
  assert.equal(bestRun(runs, { metric: "acc", greaterIsBetter: false })!.id, "b");
  assert.equal(bestRun(runs, { metric: "loss", greaterIsBetter: false }), null);
});

test("a sweep trains each combination, compares, and when run again does only what is missing", async () => {
  using place = await makeWorkplace();
  const output = join(place.folder, "sweep");
  const config = join(place.folder, "sweep.yaml");
  writeFileSync(
    config,
    `model: ${place.model}\ndata: ${place.train}\neval_data: ${place.test}\nmax_steps: 2\noutput: ${output}\nlog_level: error
save_strategy: "no"\nthreads: 1\nsweep:\n  learning_rate: [1e-5, 2e-2]\n`,
  );
  const first = await here("sweep", config);
  assert.equal(first.code, 0, first.stderr);
  const summary = JSON.parse(readFileSync(join(output, "sweep.json"), "utf8"));
  assert.equal(summary.metric, "eval_loss");
  const [low, high] = summary.runs;
  assert.ok(high.metrics.eval_loss < low.metrics.eval_loss);
  assert.equal(summary.best, high.folder);
  assert.match(first.stdout, /\* +run-[0-9a-f]{8} +0\.02 /);
  assert.ok(readdirSync(high.folder).includes("adapter_model.safetensors"));

  const again = await here("sweep", config, "--grid", "learning_rate=2e-2,1e-3");
  assert.equal(again.code, 0, again.stderr);
  assert.equal([...again.stderr.matchAll(/finished before: skipped/g)].length, 1);
  assert.equal(readdirSync(output).filter((name) => name.startsWith("run-")).length, 3);

  utimesSync(place.train, new Date(), new Date(0));
  const changed = await here(
    "sweep",
    config,
    "--grid",
    "learning_rate=2e-2,1e-3",
    "--grid",
    "target_modules=[nonsense]",
  );
  assert.equal(changed.code, 1, "a run that failed");
  assert.doesNotMatch(changed.stderr, /skipped/, "other data, other runs");
  assert.match(changed.stderr, /failed: .*no module "nonsense"/);
  assert.match(changed.stdout, /no run has train_loss/);
});

test("a sweep of another method: its own options and metric; each command says whose section a file has", async () => {
  using place = await makeWorkplace();
  const config = join(place.folder, "grpo.yaml");
  const data = join(place.folder, "prompts.jsonl");
  const rows = Array.from({ length: 8 }, (_, i) => JSON.stringify({ prompt: `${i}+1=`, answer: i + 1 }));
  writeFileSync(data, rows.join("\n"));
  writeFileSync(
    config,
    `model: ${place.model}
data: ${data}
grpo: { num_generations: 2, max_completion_length: 3, reward_funcs: number_match }
training: { max_steps: 1, per_device_train_batch_size: 2, save_strategy: "no" }
lora: { r: 2 }
threads: 1
output: ${join(place.folder, "swept")}
sweep: { parameters: { beta: [0, 0.1] } }
`,
  );
  const { code, stdout, stderr } = await here("sweep", "grpo", config, "--json");
  assert.equal(code, 0, stderr);
  const results = JSON.parse(stdout.trim().split("\n").at(-1)!) as {
    metric: string;
    greaterIsBetter: boolean;
    runs: { metrics: Record<string, number>; options: object }[];
  };
  assert.deepEqual([results.metric, results.greaterIsBetter], ["train_reward", true]);
  assert.deepEqual(
    results.runs.map(({ options }) => options),
    [{ beta: 0 }, { beta: 0.1 }],
  );
  for (const { metrics } of results.runs) assert.equal(typeof metrics.train_reward, "number");
  assert.match((await here("sweep", "grpo", config)).stderr, /finished before: skipped/);
  const wrong = await here("sweep", config);
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /grpo\.yaml:3: the section "grpo" is for `unsloth grpo`/);
  assert.match((await here("grpo", config)).stderr, /grpo\.yaml:8: "sweep" is for `unsloth sweep grpo /);
  assert.match((await here("sweep", "dpo", config, "--grid", "bta=1")).stderr, /section "grpo"/);
});
