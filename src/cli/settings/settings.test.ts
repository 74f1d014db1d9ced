import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { OptionError } from "../../util/options.ts";
import { UsageError } from "../exit.ts";
import { givenSettings, trainSettings } from "./train-settings.ts";

const folder = mkdtempSync(join(tmpdir(), "unsloth-settings-"));
after(() => rmSync(folder, { recursive: true }));

function settings(yaml: string, flags: Record<string, unknown> = {}) {
  const file = join(folder, "config.yaml");
  writeFileSync(file, yaml);
  return trainSettings(givenSettings(file, flags));
}

const SECTIONS = `
model:
  name: org/model
  load_in_4bit: false
data:
  train: [a.jsonl, b.jsonl]
  eval: test.jsonl
lora:
  r: 8
  alpha: 32
  target_modules: [q_proj, v_proj]
  use_gradient_checkpointing: unsloth
training:
  learning_rate: 1e-4
  max_steps: 20
  packing: true
  lr_scheduler_kwargs: { num_cycles: 2 }
output: here
`;

test("sections, in snake case", () => {
  const { model, data, lora, sft, args } = settings(SECTIONS);
  assert.deepEqual([model.model, model.loadIn4bit, model.fullFinetuning], ["org/model", false, false]);
  assert.deepEqual([data.data, data.evalData], [["a.jsonl", "b.jsonl"], "test.jsonl"]);
  const targetModules = ["q_proj", "v_proj"];
  assert.deepEqual(lora, { r: 8, loraAlpha: 32, targetModules, useGradientCheckpointing: "unsloth" });
  assert.deepEqual(sft, { packing: true });
  assert.equal(args.learningRate, 1e-4);
  assert.equal(args.maxSteps, 20);
  assert.equal(args.outputDir, "here");
  assert.deepEqual(args.lrSchedulerKwargs, { num_cycles: 2 });
  assert.equal(args.gradientAccumulationSteps, 4, "Unsloth's default where nothing is given");
});

test("flat keys, in camel case, snake case and other libraries' names, mean the same", () => {
  const flat = settings(`
base_model: org/model
loadIn4bit: false
train_data: [a.jsonl, b.jsonl]
evalData: test.jsonl
lora_r: 8
loraAlpha: 32
target_modules: [q_proj, v_proj]
useGradientCheckpointing: unsloth
lr: 1e-4
maxSteps: 20
packing: true
lrSchedulerKwargs: { num_cycles: 2 }
output_dir: here
`);
  assert.deepEqual(flat, settings(SECTIONS));
});

test("JSON is YAML", () => {
  assert.equal(settings('{"model": "m", "training": {"max_steps": 3}}').args.maxSteps, 3);
});

test("flags win over the file", () => {
  const { args, lora, model } = settings(SECTIONS, { learningRate: "3e-4", r: "64", loadIn4Bit: true });
  assert.deepEqual([args.learningRate, lora.r, args.maxSteps], [3e-4, 64, 20]);
  assert.equal(model.loadIn4bit, false, "commander's key for --load-in-4bit is another");
  assert.equal(settings(SECTIONS, { loadIn4bit: "true" }).model.loadIn4bit, true);
});

const ERRORS: readonly (readonly [name: string, yaml: string, message: RegExp])[] = [
  [
    "an unknown key",
    "model: m\n\nlearing_rate: 1",
    /config\.yaml:3: unknown option "learing_rate"; did you mean "learning_rate"\?/,
  ],
  ["in camel case", "learingRate: 1", /did you mean "learningRate"\?/],
  ["in a section", "lora:\n  rnk: 1", /config\.yaml:2: unknown option "rnk"/],
  ["a wrong type", "lora:\n  r: 1\n  lora_alpha: [1]", /config\.yaml:3: lora_alpha: .*found \[1\]/],
  [
    "a number in quotes",
    'learning_rate: "1e-4"',
    /config\.yaml:1: learning_rate: expected number.*leave the quotes out/,
  ],
  ["yes for true", "packing: yes", /config\.yaml:1: packing: expected boolean.*write true or false/],
  ["a misspelt choice", "lr_scheduler_type: cosin", /lr_scheduler_type: .*found "cosin"; did you mean "cosine"\?/],
  ["out of range", "max_seq_length: 0", /config\.yaml:1: max_seq_length: .*found 0/],
  [
    "given twice, in two spellings",
    "r: 1\nlora:\n  rank: 2",
    /config\.yaml:3: rank: given twice, also at .*config\.yaml:1: r/,
  ],
  ["the same key twice", "r: 1\nr: 2", /config\.yaml:2: not valid YAML: Map keys must be unique/],
  ["broken YAML", "r: 1\n  x: [", /config\.yaml:\d: not valid YAML/],
  ["a list", "- r: 1", /config\.yaml:1: expected "option: value" lines/],
  [
    "what PEFT has and this library has not",
    "r: 4\nlora_bias: true",
    /config\.yaml:2: lora_bias: a bias on B is not supported/,
  ],
  ["what Trainer has and this library has not", "push_to_hub: true", /config\.yaml:1: pushToHub true .*not supported/],
  ["a sweep", "sweep:\n  r: [1]", /config\.yaml:1: "sweep" is for `unsloth sweep/],
];

for (const [name, yaml, message] of ERRORS) {
  test(`a file with ${name} is a usage error with file and line`, () => {
    assert.throws(
      () => settings(yaml),
      (error: unknown) => (error instanceof UsageError || error instanceof OptionError) && message.test(error.message),
    );
  });
}

test("options of other libraries that ask for nothing are taken", () => {
  assert.deepEqual(settings("lora_bias: false\nddp_timeout: 5\npadding_free: true\nr: 4").lora, { r: 4 });
});

test("an empty file says nothing, a missing one is an error", () => {
  assert.equal(settings("# nothing\n").model.model, null);
  assert.throws(
    () => givenSettings(join(folder, "none.yaml"), {}),
    /the configuration file cannot be read.*none\.yaml/,
  );
});

test("aliases that multiply are refused", () => {
  const lists = Array.from({ length: 9 }, (_, i) => `&a${i + 1} [${`*a${i}, `.repeat(9)}]`);
  const yaml = `lr_scheduler_kwargs: { x: &a0 [1], ${lists.map((list, i) => `x${i}: ${list}`).join(", ")} }`;
  assert.throws(() => settings(yaml), /config\.yaml:1: .*alias/i);
});
