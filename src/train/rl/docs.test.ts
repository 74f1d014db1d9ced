import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { extname, join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { runGuide } from "../guide.test.support.ts";
import { inFolder } from "../tiny-training.test.support.ts";
import { grpoSchema } from "./grpo-config.ts";
import { ppoSchema } from "./ppo-config.ts";

const GUIDE = readFileSync(new URL("../../../docs/rl.md", import.meta.url), "utf8");

test("every example of the guide to reinforcement learning runs", async () => {
  await runGuide(GUIDE, { examples: 3 }, (folder) => {
    for (const file of ["grpo-adapter", "ppo-adapter", "ppo-adapter/value"]) {
      assert.ok(existsSync(join(folder, file, "adapter_model.safetensors")), file);
    }
    assert.ok(existsSync(join(folder, "ppo", "completions", "completions_00001.jsonl")));
  });
});

test("the guide names every option", () => {
  for (const { shape } of [grpoSchema, ppoSchema]) {
    assert.deepEqual(
      Object.keys(shape).filter((name) => !GUIDE.includes(`\`${name}\``)),
      [],
    );
  }
});

const ROOT = new URL("../../../", import.meta.url);

/** Runs an example with fewer and smaller steps, and gives what it prints. */
async function runExample(name: string, smaller: Readonly<Record<string, string>>): Promise<string> {
  let code = readFileSync(new URL(`examples/${name}`, ROOT), "utf8")
    .replace('"unsloth"', JSON.stringify(new URL(`../../index${extname(import.meta.url)}`, import.meta.url).href))
    .replace('"./arithmetic.mjs"', JSON.stringify(new URL("examples/arithmetic.mjs", ROOT).href))
    .replace('new URL("../models/tiny-math", import.meta.url)', JSON.stringify(new URL("models/tiny-math", ROOT).href));
  for (const [from, to] of Object.entries(smaller)) {
    assert.ok(code.includes(from), `${name} has ${from}`);
    code = code.replace(from, to);
  }
  const lines: string[] = [];
  await inFolder(async (folder) => {
    const file = join(folder, name);
    writeFileSync(file, code);
    const { log } = console;
    console.log = (line: string) => void lines.push(line);
    try {
      await import(pathToFileURL(file).href);
    } finally {
      console.log = log;
    }
  });
  return lines.join("\n");
}

const FEW = { "problems(100,": "problems(4,", "problems(400,": "problems(96,", "maxSteps: 10,": "maxSteps: 1," };

test("the example of GRPO runs, of fewer steps", async () => {
  const smaller = { "maxSteps: 60": "maxSteps: 2", "loggingSteps: 10": "loggingSteps: 1", "Size: 32": "Size: 8" };
  const printed = await runExample("grpo.mjs", { ...FEW, ...smaller });
  assert.match(printed, /^after 10 steps of SFT: \d of 4 right/m);
  assert.match(printed, /^step 2: reward \d\.\d{3}, entropy \d/m);
  assert.match(printed, /^after 60 steps of GRPO: \d of 4 right/m);
});

test("the example of PPO runs, of fewer rollouts", async () => {
  const smaller = { "maxSteps: 40": "maxSteps: 2", "loggingSteps: 5": "loggingSteps: 1", "Size: 64": "Size: 8" };
  const printed = await runExample("ppo.mjs", { ...FEW, ...smaller });
  assert.match(printed, /^rollout 2: score \d\.\d{3}, KL -?\d/m);
  assert.match(printed, /^after 40 rollouts of PPO: \d of 4 right/m);
});
