import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { here, makeWorkplace, type Workplace } from "../cli.test.support.ts";

let place: Workplace;
const file = (name: string, rows: readonly object[]): string => {
  const path = join(place.folder, name);
  writeFileSync(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return path;
};
before(async () => {
  place = await makeWorkplace();
});
after(() => place[Symbol.dispose]());

const numbers = Array.from({ length: 12 }, (_, i) => [i % 7, i % 5] as const);
const pairs = (): object[] =>
  numbers.map(([a, b]) => ({ prompt: `${a}+${b}=?`, chosen: ` ${a + b}`, rejected: ` ${a + b + 3}` }));
const common = (): string[] => [
  ...[
    "--model",
    place.model,
    "--output",
    join(place.folder, "none"),
    "--r",
    "2",
    "--lora-alpha",
    "4",
    "--threads",
    "1",
  ],
  ...["--max-steps", "2", "--save-strategy", "no", "--gradient-accumulation-steps", "1"],
];

interface Planned {
  readonly rows: number;
  readonly maxSteps: number;
  readonly dataReport: Readonly<Record<string, unknown>>;
  readonly fixed: Readonly<Record<string, number>>;
  readonly update: Readonly<
    Record<string, { readonly useGradientCheckpointing: string; readonly activations: number }[]>
  >;
  readonly generation: Readonly<Record<string, number>>;
}

async function planned(...args: readonly string[]): Promise<Planned & Readonly<Record<string, unknown>>> {
  const { code, stdout, stderr } = await here(...args, "--dry-run", "--json");
  assert.equal(code, 0, stderr);
  assert.equal(existsSync(join(place.folder, "none")), false, "nothing is written");
  return JSON.parse(stdout);
}

/** The first event of the training itself. */
async function started(...args: readonly string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await here(...args, "--json", "--output", join(place.folder, "real"));
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout.slice(0, stdout.indexOf("\n")));
}

const sameMemory = ({ fixed, update }: Planned, real: Record<string, unknown>): void => {
  const { weights, adapter, gradients, optimizer, cache } = fixed;
  assert.deepEqual(
    [weights, adapter, gradients, optimizer, cache],
    [real.weights, real.adapter, real.gradients, real.optimizer, real.cache ?? 0],
  );
  const kept = Object.values(update).map(
    (modes) => modes.find(({ useGradientCheckpointing }) => useGradientCheckpointing === "unsloth")!.activations,
  );
  assert.equal(Math.max(...kept), real.activations);
};

test("dpo: rows kept and left out with their places, steps, and the memory that training then takes", async () => {
  const rows = [
    ...pairs(),
    { prompt: "1+1=?", chosen: " 2", rejected: " 2" },
    { prompt: "1+1=?", chosen: "", rejected: "3" },
  ];
  const data = file("pairs.jsonl", rows);
  const args = ["dpo", ...common(), "--data", data];
  const plan = await planned(...args);
  assert.deepEqual([plan.rows, plan.maxSteps], [12, 2]);
  assert.deepEqual(plan.dataReport.dropped, { equal: 1, empty: 1, cut: 0 });
  sameMemory(plan, await started(...args));
  const { code, stdout } = await here(...args, "--dry-run");
  assert.equal(code, 0);
  assert.match(stdout, /dropped: .*pairs\.jsonl:13/);
  assert.match(stdout, /2 steps \(1 epochs begun\)/);
  assert.match(stdout, /dry run: nothing was trained/);
});

test("reward: pairs left out, and where they are, before a training and in its dry run", async () => {
  const long = { prompt: "1+1=?", chosen: ` ${"1".repeat(40)}`, rejected: " 2" };
  const data = file("rewards.jsonl", [{ prompt: "1+1=?", chosen: " 2", rejected: " 2" }, ...pairs(), long]);
  const args = ["reward", ...common(), "--data", data, "--max-length", "30"];
  const { dataReport } = await planned(...args);
  assert.deepEqual(dataReport.dropped, { equal: 1, tooLong: 1 });
  assert.deepEqual(dataReport.droppedAt, [`${data}:1`, `${data}:14`]);
  const trained = await here(...args, "--output", join(place.folder, "rewards"), "--log-level", "error");
  assert.equal(trained.code, 0, trained.stderr);
  for (const said of [(await here(...args, "--dry-run")).stdout, trained.stderr]) {
    assert.match(said, /rows 14, dropped \(equal\) 1, dropped \(too long\) 1, tokens \d+/);
    assert.match(said, /dropped: .*rewards\.jsonl:1, .*rewards\.jsonl:14/);
  }
});

test("an adapter that goes on being trained is counted twice: its copy is the reference", async () => {
  const data = ["--data", file("again.jsonl", pairs())];
  const output = join(place.folder, "trained");
  const first = ["dpo", ...common(), ...data, "--output", output, "--log-level", "error"];
  assert.equal((await here(...first)).code, 0);
  const again = ["dpo", "--model", place.model, "--threads", "1", "--output", join(place.folder, "none"), ...data];
  const [fresh, copied] = [await planned(...again, "--r", "2"), await planned(...again, "--adapter", output)];
  assert.equal(copied.fixed.adapter, 2 * fresh.fixed.adapter!);
  const real = await started(...again, "--adapter", output, "--max-steps", "1", "--save-strategy", "no");
  sameMemory(copied, real);
  assert.match((await here(...again, "--adapter", output, "--dry-run")).stdout, /the adapter as it is now.*a copy/);
  const prompts = file("more.jsonl", [{ prompt: "1+1=?", answer: 2 }]);
  const sampling = ["--num-generations", "4", "--per-device-train-batch-size", "4", "--max-completion-length", "4"];
  const grpo = ["grpo", ...again.slice(1, -2), "--data", prompts, "--reward-funcs", "number_match", ...sampling];
  const limits = ["--gradient-accumulation-steps", "1", "--max-steps", "1", "--save-strategy", "no"];
  const rewarded = [...grpo, ...limits, "--adapter", output];
  for (const [beta, copies] of [
    ["0.1", 2],
    ["0", 1],
  ] as const) {
    const run = [...rewarded, "--beta", beta];
    const { adapter } = await started(...run);
    assert.equal(adapter, copies * fresh.fixed.adapter!, `beta ${beta}`);
    assert.equal((await planned(...run)).fixed.adapter, adapter);
  }
  const simpo = await planned("cpo", ...again.slice(1), "--adapter", output);
  assert.equal(simpo.fixed.adapter, fresh.fixed.adapter);
});

test("every method on answers has a dry run", async () => {
  const data = file("some.jsonl", pairs());
  const labelled = numbers.map(([a, b], i) => ({ prompt: `${a}+${b}=?`, completion: ` ${a + b}`, label: i % 2 === 0 }));
  const answers = file("answers.jsonl", labelled);
  for (const name of ["cpo", "orpo", "kto", "reward"]) {
    const args = [name, ...common(), "--data", name === "kto" ? answers : data];
    sameMemory(await planned(...args), await started(...args));
  }
});

test("grpo and ppo: prompts, a generation, its keys and values, and the largest update there can be", async () => {
  const prompts = numbers.map(([a, b]) => ({ prompt: `${a}+${b}=?`, answer: a + b }));
  const data = ["--data", file("prompts.jsonl", prompts), "--reward-funcs", "number_match"];
  const sampling = ["--num-generations", "4", "--per-device-train-batch-size", "4", "--max-completion-length", "6"];
  const grpo = ["grpo", ...common(), ...data, ...sampling, "--beta", "0.1", "--num-iterations", "2"];
  const plan = await planned(...grpo);
  assert.deepEqual([plan.prompts, plan.completionsPerGeneration, plan.sequencesAtOnce], [12, 4, 4]);
  assert.ok(plan.fixed.cache! > 0);
  assert.ok(Object.keys(plan.generation).some((name) => /generating 4 sequences of \d+ tokens/.test(name)));
  sameMemory(plan, await started(...grpo));
  const sizes = ["--per-device-train-batch-size", "4", "--response-length", "5", "--num-sample-generations", "0"];
  const ppo = ["ppo", ...common(), ...data, ...sizes];
  const rollouts = await planned(...ppo);
  assert.deepEqual(Object.keys(rollouts.update).length, 2, "policy and value model");
  assert.ok(Object.keys(rollouts.generation).some((name) => name.startsWith("scoring")));
  sameMemory(rollouts, await started(...ppo));
});

test("a dry run finds what training would find, and exits with its code", async () => {
  const data = file("wrong.jsonl", [...pairs(), { prompt: "1+1=?", chosen: 2, rejected: " 3" }]);
  const fails = async (code: number, message: RegExp, ...args: readonly string[]): Promise<void> => {
    const ran = await here(...args, "--dry-run");
    assert.match(ran.stderr, message);
    assert.equal(ran.code, code);
  };
  await fails(1, /wrong\.jsonl:13.*chosen/s, "dpo", ...common(), "--data", data);
  const prompts = file("bare.jsonl", [{ prompt: "1+1=?" }]);
  await fails(2, /reward_funcs is missing/, "grpo", ...common(), "--data", prompts);
  const rewarded = ["grpo", ...common(), "--reward-funcs", "number_match", "--num-generations", "3"];
  await fails(2, /bare\.jsonl:1 has only \["prompt"\]/, ...rewarded, "--data", prompts);
  const answered = file("answered.jsonl", [{ prompt: "1+1=?", answer: 2 }]);
  await fails(2, /does not hold whole groups/, ...rewarded, "--data", answered);
});
