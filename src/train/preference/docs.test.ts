import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runGuide } from "../guide.test.support.ts";
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

test("the preference guide names every option and loss", () => {
  const options = [dpoSchema, cpoSchema, orpoSchema, ktoSchema].flatMap(({ shape }) => Object.keys(shape));
  const named = (name: string): boolean => GUIDE.includes(`\`${name}`) || GUIDE.includes(`${name}:`);
  assert.deepEqual(
    [...options, ...DPO_LOSS_TYPES].filter((name) => !named(name)),
    [],
  );
});
