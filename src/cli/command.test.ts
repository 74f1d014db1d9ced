import assert from "node:assert/strict";
import { test } from "node:test";
import { Option } from "commander";
import { z } from "zod";
import { here } from "./cli.test.support.ts";
import { BooleanOption, respell } from "./command.ts";
import { exitCodeOf } from "./exit.ts";
import { flagValue, kebab, schemaFlag, snake } from "./flags.ts";

const options = [
  new Option("--max-steps <number>"),
  new Option("--load-in-4bit <x>"),
  new BooleanOption("--packing"),
  new BooleanOption("--mode", "", (word) => word === "unsloth"),
];

const CASES: readonly (readonly [name: string, given: string, expected: string])[] = [
  ["snake case", "--max_steps 3", "--max-steps 3"],
  ["camel case, with =", "--maxSteps=3", "--max-steps=3"],
  ["digits", "--loadIn4bit x --load_in_4bit y", "--load-in-4bit x --load-in-4bit y"],
  ["a value that looks like a flag", "--max-steps --packing", "--max-steps --packing"],
  ["a flag alone is true", "--packing config.yaml", "--packing=true config.yaml"],
  ["a flag with its value", "--packing false --mode unsloth", "--packing=false --mode=unsloth"],
  ["a word that is not its value", "--packing unsloth", "--packing=true unsloth"],
  ["negated", "--no-packing --noMode", "--packing=false --mode=false"],
  ["nothing to negate", "--no-steps", "--no-steps"],
  ["what comes after --", "--packing -- --max_steps", "--packing=true -- --max_steps"],
  ["unknown ones, and single letters, stay", "--foo_bar -V x", "--foo_bar -V x"],
  ["an alias", "--steps 4", "--max-steps 4"],
];

for (const [name, given, expected] of CASES) {
  test(`flags: ${name}`, () => {
    assert.equal(respell(given.split(" "), options, new Map([["steps", "maxsteps"]])).join(" "), expected);
  });
}

test("names in the spellings of flags and files", () => {
  const names = ["maxSteps", "loadIn4bit", "adamBeta1", "useRslora", "r", "max_steps"];
  assert.deepEqual(names.map(kebab), ["max-steps", "load-in-4bit", "adam-beta1", "use-rslora", "r", "max-steps"]);
  assert.deepEqual(names.map(snake), ["max_steps", "load_in_4bit", "adam_beta1", "use_rslora", "r", "max_steps"]);
});

const VALUES: readonly (readonly [schema: z.ZodType, text: string, value: unknown])[] = [
  [z.number(), "2e-4", 2e-4],
  [z.number().int().nullable(), "null", null],
  [z.boolean(), "false", false],
  [z.union([z.boolean(), z.literal("unsloth")]), "unsloth", "unsloth"],
  [z.enum(["a", "b"]), "a", "a"],
  [z.array(z.string()), "a, b", ["a", "b"]],
  [z.union([z.number(), z.array(z.number())]), "1,2", [1, 2]],
  [z.union([z.number(), z.array(z.number())]), "3", 3],
  [z.union([z.string(), z.array(z.string())]), "all-linear", "all-linear"],
  [z.union([z.string(), z.array(z.string())]), ".*_proj", ".*_proj"],
  [z.union([z.string(), z.array(z.string())]), "q_proj", ["q_proj"]],
  [z.record(z.string(), z.number()), '{"a": 1}', { a: 1 }],
  [z.string(), "true", "true"],
];

for (const [schema, text, value] of VALUES) {
  test(`the flag text ${text} means ${JSON.stringify(value)}`, () => {
    assert.deepEqual(flagValue("name", schema, text), value);
  });
}

test("flag texts that mean nothing are usage errors that name the flag", () => {
  assert.throws(() => flagValue("maxSteps", z.number(), "many"), /--max-steps needs a number, found "many"/);
  assert.throws(() => flagValue("rankPattern", z.record(z.string(), z.number()), "{"), /--rank-pattern needs JSON/);
});

test("help shows choices and defaults", () => {
  const { description } = schemaFlag("kind", z.enum(["a", "b"]).default("b").describe("which"));
  assert.equal(description, "which: one of a, b (default: b)");
  assert.match(schemaFlag("learningRate", z.number().default(5e-5), 2e-4).description, /\(default: 0\.0002\)$/);
  assert.equal(schemaFlag("packing", z.boolean().default(false).describe("pack")).description, "pack");
});

test("usage errors exit with 2 and name the nearest", async () => {
  const flag = await here("train", "--learning-rat", "1");
  assert.equal(flag.code, 2);
  assert.match(flag.stderr, /unknown option '--learning-rat'[\s\S]*--learning-rate/);
  const command = await here("trian");
  assert.equal(command.code, 2);
  assert.match(command.stderr, /unknown command "trian"; did you mean "train"\?/);
  const withFlags = await here("finetune", "--model", "x");
  assert.equal(withFlags.code, 2);
  assert.match(withFlags.stderr, /unknown command "finetune" \(there are .*train/);
  const missing = await here("train");
  assert.equal(missing.code, 2);
  assert.match(missing.stderr, /data is missing|model is missing/);
});

test("help and version exit with 0; every command's help has examples", async () => {
  assert.match((await here("--version")).stdout, /^\d+\.\d+\.\d+\n$/);
  for (const name of ["train", "sweep", "plan", "eval", "chat", "generate", "merge", "hub", "doctor", "data"]) {
    const { code, stdout } = await here(name, "--help");
    assert.equal(code, 0, name);
    assert.match(stdout, /Examples:\n {2}unsloth/, name);
  }
});

test("other errors exit with 1", async () => {
  assert.equal(exitCodeOf(new Error("no")), 1);
  const { code, stderr } = await here("generate", "--model", "./nowhere", "--prompt", "x");
  assert.equal(code, 1);
  assert.match(stderr, /^unsloth: there is no file or folder "\.\/nowhere"/);
  assert.doesNotMatch(stderr, /\n\s+at /, "no stack");
});
