import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { here, makeWorkplace, type Workplace } from "../cli.test.support.ts";

let place: Workplace;
before(async () => {
  place = await makeWorkplace();
});
after(() => place[Symbol.dispose]());

const file = (name: string, text: string): string => {
  const path = join(place.folder, name);
  writeFileSync(path, text);
  return path;
};
const lines = (name: string, ...rows: readonly object[]): string =>
  file(name, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));

/** A command that must fail with a code and a message. */
async function fails(code: number, message: RegExp, method: string, data: string, ...more: string[]): Promise<void> {
  const output = join(place.folder, "out");
  const fixed = ["--r", "2", "--threads", "1", "--max-steps", "1", "--save-strategy", "no", "--log-level", "error"];
  const args = [method, "--model", place.model, "--data", data, "--output", output, ...fixed, ...more];
  const ran = await here(...args);
  assert.match(ran.stderr, message, args.join(" "));
  assert.equal(ran.code, code, ran.stderr);
}

const good = { prompt: "1+1=", chosen: "2", rejected: "3" };
const PAIRED = ["dpo", "cpo", "orpo", "reward"];

test("rows that are wrong are named with file, line, column and what was found", async () => {
  const missing = lines("missing.jsonl", good, { prompt: "1+1=", chosen: "2" });
  const types = lines("types.jsonl", good, { ...good, chosen: 2 });
  const broken = file("broken.jsonl", `${JSON.stringify(good)}\n{"prompt":`);
  for (const method of PAIRED) {
    await fails(1, /missing\.jsonl:2: rejected: found only \["prompt", "chosen"\]; expected/, method, missing);
    await fails(1, /types\.jsonl:2: chosen: found 2; expected a string/, method, types);
  }
  await fails(1, /broken\.jsonl:2: line: found .*; expected a JSON object/, "dpo", broken);
  const label = lines("label.jsonl", { prompt: "1", completion: "2", label: "yes" });
  await fails(1, /label\.jsonl:1: label: found "yes"; expected true or false/, "kto", label);
  const prompts = lines("question.jsonl", { question: "1+1=", answer: 2 });
  for (const method of ["grpo", "ppo"]) {
    await fails(1, /question\.jsonl:1: prompt: found only/, method, prompts, "--reward-funcs", "number_match");
  }
});

test("no rows, and no rows left, say why", async () => {
  const empty = file("empty.jsonl", "");
  for (const method of [...PAIRED, "kto", "grpo"])
    await fails(2, /empty\.jsonl has no rows: expected \{/, method, empty);
  const equal = lines("equal.jsonl", { ...good, rejected: "2" });
  await fails(1, /none of which is left \(1 with equal answers.*equal\.jsonl:1/, "dpo", equal);
  await fails(1, /none of which is left \(1 with equal answers.*equal\.jsonl:1/, "reward", equal);
  const long = lines("long.jsonl", { prompt: "1+1+1+1+1+1=", chosen: "6", rejected: "7" });
  await fails(1, /1 whose answer is cut away; .*long\.jsonl:1.*maxLength/, "dpo", long, "--max-length", "4");
  const rows = lines("rows.jsonl", good, good);
  await fails(2, /eval_size: found 5 of 2 rows; expected/, "dpo", rows, "--eval-size", "5");
});

test("rewards that are missing, fail or give no rewards are named", async () => {
  const prompts = lines("prompts.jsonl", ...Array.from({ length: 4 }, () => ({ prompt: "1+1=" })));
  const rewards = file(
    "rewards.mjs",
    `export const throws = () => { throw new Error("no verifier"); };
export const few = () => [1];
export const nan = ({ completions }) => completions.map(() => NaN);
export const nothing = () => {};
`,
  );
  const sizes = ["--per-device-train-batch-size", "4"];
  const grpo = [...sizes, "--num-generations", "4", "--max-completion-length", "2"];
  for (const [method, more] of [
    ["grpo", grpo],
    ["ppo", [...sizes, "--response-length", "2"]],
  ] as const) {
    const rewarded = (code: number, message: RegExp, name: string): Promise<void> =>
      fails(code, message, method, prompts, "--reward-funcs", name, ...more);
    await rewarded(1, /reward function "throws" failed: no verifier/, `${rewards}#throws`);
    await rewarded(1, /"few" gave 1 rewards for 4 completions/, `${rewards}#few`);
    await rewarded(1, /"nan" gave NaN for completion 0/, `${rewards}#nan`);
    await rewarded(1, /"nothing" gave undefined; expected an array of 4 numbers/, `${rewards}#nothing`);
    await rewarded(2, /no function "thrws"; functions it exports: few, nan, nothing, throws/, `${rewards}#thrws`);
    await rewarded(2, /none\.mjs: there is no such file/, join(place.folder, "none.mjs#f"));
    await rewarded(2, /compares with the column "answer"; .*prompts\.jsonl:1 has only \["prompt"\]/, "number_match");
  }
});

test("options that are misspelt or cannot be are named with what would work", async () => {
  const rows = lines("pairs.jsonl", good, good);
  await fails(2, /unknown option '--bta'[\s\S]*--beta/, "dpo", rows, "--bta", "1");
  await fails(
    2,
    /--loss-type: expected one of .*found "sigmod"; did you mean "sigmoid"/,
    "dpo",
    rows,
    "--loss-type",
    "sigmod",
  );
  await fails(2, /--scale-rewards: .*found "groop"; did you mean "group"/, "grpo", rows, "--scale-rewards", "groop");
  await fails(2, /there is no checkpoint-N folder in .*out/, "dpo", rows, "--resume");
  await fails(1, /none.*found no such folder/, "dpo", rows, "--resume", join(place.folder, "none"));
  const adapter = ["--adapter", place.model];
  const args = ["dpo", "--model", place.model, "--data", rows, ...adapter, "--threads", "1"];
  const { code, stderr } = await here(...args);
  assert.equal(code, 1);
  assert.match(stderr, /adapter_config\.json: file: found no such file; expected an adapter's folder/);
});
