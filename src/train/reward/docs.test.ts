import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runGuide } from "../guide.test.support.ts";
import { rewardSchema } from "./config.ts";

const GUIDE = readFileSync(new URL("../../../docs/reward.md", import.meta.url), "utf8");

test("every example of the reward guide runs", async () => {
  await runGuide(GUIDE, { examples: 3 }, (folder) => {
    assert.ok(existsSync(join(folder, "reward-adapter", "adapter_model.safetensors")));
  });
});

test("the reward guide names every option", () => {
  assert.deepEqual(
    Object.keys(rewardSchema.shape).filter((name) => !GUIDE.includes(`\`${name}\``)),
    [],
  );
});
