import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { here, makeWorkplace, type Workplace } from "../cli.test.support.ts";

let place: Workplace;
let pairs: string;
let answers: string;
let prompts: string;
before(async () => {
  place = await makeWorkplace();
  const write = (name: string, rows: readonly object[]): string => {
    const file = join(place.folder, name);
    writeFileSync(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
    return file;
  };
  const numbers = Array.from({ length: 16 }, (_, i) => [i % 7, i % 5] as const);
  const prompt = (a: number, b: number): string => `${a}+${b}=?`;
  pairs = write(
    "pairs.jsonl",
    numbers.map(([a, b]) => ({ prompt: prompt(a, b), chosen: ` ${a + b}`, rejected: ` ${a + b + 3}` })),
  );
  answers = write(
    "answers.jsonl",
    numbers.map(([a, b], i) => ({ prompt: prompt(a, b), completion: ` ${a + b + (i % 2)}`, label: i % 2 === 0 })),
  );
  prompts = write(
    "prompts.jsonl",
    numbers.map(([a, b]) => ({ prompt: prompt(a, b), answer: a + b })),
  );
});
after(() => place[Symbol.dispose]());

const rowsOf = (text: string): Record<string, unknown>[] =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

const common = (name: string): string[] => [
  ...["--model", place.model, "--output", join(place.folder, name), "--r", "2", "--lora-alpha", "4", "--threads", "1"],
  ...["--max-steps", "2", "--save-strategy", "no", "--learning-rate", "1e-3", "--gradient-accumulation-steps", "1"],
];

const METHODS: readonly (readonly [name: string, data: () => string, metric: string, evaluated: string])[] = [
  ["dpo", () => pairs, "rewards/accuracies", "eval_rewards/accuracies"],
  ["cpo", () => pairs, "rewards/accuracies", "eval_rewards/accuracies"],
  ["orpo", () => pairs, "log_odds_ratio", "eval_rewards/accuracies"],
  ["kto", () => answers, "rewards/margins", "eval_loss"],
  ["reward", () => pairs, "accuracy", "eval_accuracy"],
];

for (const [name, data, metric, evaluated] of METHODS) {
  test(`${name}: trains, logs its metrics, evaluates and writes an adapter`, async () => {
    const { code, stdout, stderr } = await here(name, ...common(name), "--data", data(), "--eval-size", "4", "--json");
    assert.equal(code, 0, stderr);
    const rows = rowsOf(stdout);
    assert.deepEqual([rows[0]!.event, rows[0]!.method, rows.at(-1)!.event], ["start", name, "end"]);
    const logged = rows.filter((row) => row.event === "log" && "loss" in row);
    assert.deepEqual(
      logged.map(({ step }) => step),
      [1, 2],
    );
    assert.equal(typeof logged[0]![metric], "number", JSON.stringify(logged[0]));
    assert.equal(typeof rows.at(-1)![evaluated], "number", JSON.stringify(rows.at(-1)));
    assert.ok(existsSync(join(place.folder, name, "adapter_model.safetensors")));
  });
}

test("grpo: rewards by name and from a module", async () => {
  const file = join(place.folder, "rewards.mjs");
  writeFileSync(file, "export const shortness = ({ completionIds }) => completionIds.map((ids) => -ids.length);\n");
  const sampling = ["--num-generations", "4", "--per-device-train-batch-size", "4", "--max-completion-length", "6"];
  const args = ["grpo", ...common("grpo"), "--data", prompts, ...sampling, "--json"];
  const { code, stdout, stderr } = await here(...args, "--reward-funcs", `number_match,${file}#shortness`);
  assert.equal(code, 0, stderr);
  const logged = rowsOf(stdout).filter((row) => row.event === "log" && "loss" in row);
  assert.equal(logged.length, 2);
  assert.equal(typeof logged[0]!["rewards/number_match/mean"], "number");
  assert.ok(Number(logged[0]!["rewards/shortness/mean"]) < 0);
  const wrong = async (...more: string[]) => (await here(...args, ...more)).stderr;
  assert.match(await wrong(), /reward_funcs is missing/);
  assert.match(await wrong("--reward-funcs", "numbr_match"), /did you mean "number_match"/);
  assert.match(await wrong("--reward-funcs", `${file}#size`), /no function "size"; functions it exports: shortness/);
});

test("ppo: one reward, a value adapter beside the policy's", async () => {
  const sizes = ["--per-device-train-batch-size", "4", "--response-length", "5", "--total-episodes", "8"];
  const args = ["ppo", ...common("ppo"), "--data", prompts, ...sizes, "--num-sample-generations", "0", "--json"];
  const { code, stdout, stderr } = await here(...args, "--reward-funcs", "number_match");
  assert.equal(code, 0, stderr);
  const logged = rowsOf(stdout).filter((row) => row.event === "log" && "objective/scores" in row);
  assert.ok(logged.length > 0, stdout);
  assert.match((await here(...args)).stderr, /reward_funcs: ppo takes one/);
});

test("a file of settings has the method's section; wrong ones are named with their line", async () => {
  const config = join(place.folder, "dpo.yaml");
  const text = (beta: string): string =>
    `model: ${place.model}\ndata: ${pairs}\ndpo: { ${beta}, loss_type: ipo }\ntraining: { max_steps: 1, save_strategy: "no" }\nthreads: 1\noutput: ${join(place.folder, "file")}\n`;
  writeFileSync(config, text("beta: 0.2"));
  const { code, stderr } = await here("dpo", config);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /16|rows/);
  writeFileSync(config, text("bta: 0.2"));
  assert.match((await here("dpo", config)).stderr, /dpo\.yaml:3: unknown option "bta"; did you mean "beta"/);
  writeFileSync(config, text("sync_ref_model: true"));
  assert.match((await here("dpo", config)).stderr, /dpo\.yaml:3: syncRefModel true cannot be had: the reference stays/);
  assert.match((await here("dpo", "--model", place.model, "--data", answers)).stderr, /answers\.jsonl:1.*chosen/s);
});

/** The loss of the first step. */
async function firstLoss(...args: readonly string[]): Promise<number> {
  const { code, stdout, stderr } = await here(...args, "--json");
  assert.equal(code, 0, stderr);
  return Number(rowsOf(stdout).find((row) => row.event === "log" && "loss" in row)!.loss);
}

test("before the first step the policy is its reference, whichever way that is had", async () => {
  const trained = join(place.folder, "before");
  const plain = [
    "--model",
    place.model,
    "--threads",
    "1",
    "--save-strategy",
    "no",
    "--gradient-accumulation-steps",
    "1",
  ];
  const steps = (name: string): string[] => ["--max-steps", "1", "--output", join(place.folder, name)];
  const dpo = ["dpo", ...plain, "--data", pairs];
  const lora = ["--r", "2", "--lora-alpha", "4"];
  assert.ok((await firstLoss(...dpo, ...lora, "--max-steps", "3", "--learning-rate", "1e-2", "--output", trained)) > 0);
  for (const more of [
    ["--adapter", trained],
    ["--full-finetuning"],
    [...lora, "--precompute-ref-log-probs", "--ref-cache-dir", join(place.folder, "reference")],
  ]) {
    const loss = await firstLoss(...dpo, ...steps("after"), ...more);
    assert.ok(Math.abs(loss - Math.log(2)) < 1e-4, `${more}: ${loss}`);
    assert.equal((await here(...dpo, ...steps("none"), ...more, "--dry-run")).code, 0, `${more}`);
  }
  const kto = ["kto", ...plain, "--data", answers, ...steps("kto"), "--full-finetuning"];
  assert.ok(Math.abs((await firstLoss(...kto)) - 0.5) < 1e-4);
});

test("lists of losses and weights, and settings that are inputs of a batch", async () => {
  const losses = ["--loss-type", "sigmoid,sft", "--loss-weights", "1,0.5"];
  assert.ok((await firstLoss("dpo", ...common("losses"), "--data", pairs, ...losses)) > Math.log(2));
  const grpo = [
    ...["grpo", "--model", place.model, "--threads", "1", "--output", join(place.folder, "bonus"), "--data", prompts],
    ...["--num-generations", "4", "--per-device-train-batch-size", "4", "--max-completion-length", "4"],
    ...["--max-steps", "2", "--save-strategy", "no", "--reward-funcs", "number_match"],
    ...["--gradient-accumulation-steps", "1"],
  ];
  for (const more of [
    ["--entropy-coef", "0.1"],
    ["--use-adaptive-entropy", "--top-entropy-quantile", "0.5"],
    ["--full-finetuning", "--num-iterations", "2"],
  ]) {
    assert.ok(Number.isFinite(await firstLoss(...grpo, ...more)), `${more}`);
    assert.equal((await here(...grpo, ...more, "--dry-run")).code, 0, `${more}`);
  }
});
