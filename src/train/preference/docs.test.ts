import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { extname, join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { runGuide } from "../guide.test.support.ts";
import { inFolder } from "../tiny-training.test.support.ts";
import { cpoSchema } from "./cpo-config.ts";
import { dpoSchema } from "./dpo-config.ts";
import { DPO_LOSS_TYPES } from "./dpo-losses.ts";
import { ktoSchema } from "./kto-config.ts";
import { orpoSchema } from "./orpo-config.ts";

const GUIDE = readFileSync(new URL("../../../docs/preference.md", import.meta.url), "utf8");

test("every example of the preference guide runs", async () => {
  await runGuide(GUIDE, { examples: 4 }, (folder) => {
    assert.ok(existsSync(join(folder, "dpo-adapter", "adapter_model.safetensors")));
    assert.equal(readdirSync(join(folder, "reference")).length, 1);
  });
});

test("the example runs: a few of its rows train, and are measured before and after", async () => {
  const example = readFileSync(new URL("../../../examples/dpo.mjs", import.meta.url), "utf8");
  const library = new URL(`../../index${extname(import.meta.url)}`, import.meta.url).href;
  const model = new URL("../../../models/tiny-math", import.meta.url).href;
  const small = example
    .replace('"unsloth"', JSON.stringify(library))
    .replace("[TRAIN, TEST, SEED] = [400, 100,", "[TRAIN, TEST, SEED] = [16, 4,")
    .replace('new URL("../models/tiny-math", import.meta.url)', JSON.stringify(model));
  await inFolder(async (folder) => {
    const file = join(folder, "dpo.mjs");
    writeFileSync(file, small);
    const lines: string[] = [];
    const { log } = console;
    const { argv } = process;
    console.log = (line: string) => void lines.push(line);
    process.argv = argv.slice(0, 2);
    try {
      await import(pathToFileURL(file).href);
    } finally {
      console.log = log;
      process.argv = argv;
    }
    assert.match(lines.join("\n"), /^before: eval_rewards.*exact answers \d+%$/m);
    assert.match(lines.join("\n"), /^4 steps, mean loss \d/m);
    assert.match(lines.join("\n"), /^after: eval_rewards.*exact answers \d+%$/m);
  });
});

test("the preference guide names every option and loss", () => {
  const options = [dpoSchema, cpoSchema, orpoSchema, ktoSchema].flatMap(({ shape }) => Object.keys(shape));
  const named = (name: string): boolean => GUIDE.includes(`\`${name}`) || GUIDE.includes(`${name}:`);
  assert.deepEqual(
    [...options, ...DPO_LOSS_TYPES].filter((name) => !named(name)),
    [],
  );
});
