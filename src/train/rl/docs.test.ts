import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runGuide } from "../guide.test.support.ts";
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
