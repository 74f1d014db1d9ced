import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { argumentsSchema } from "./arguments.ts";
import { runGuide } from "./guide.test.support.ts";
import { sftSchema } from "./sft-config.ts";

const GUIDE = readFileSync(new URL("../../docs/training.md", import.meta.url), "utf8");

function writeChats(folder: string): void {
  const chats = Array.from({ length: 20 }, (_, i) => ({
    messages: [
      { role: "user", content: `${i} and one?` },
      { role: "assistant", content: `${i + 1}` },
    ],
  }));
  writeFileSync(join(folder, "chats.jsonl"), chats.map((row) => `${JSON.stringify(row)}\n`).join(""));
}

test("every example of the guide runs", async () => {
  // The first example's checkpoint is what the last one resumes from.
  await runGuide(GUIDE, { examples: 8, prepare: writeChats }, (folder) => {
    assert.ok(existsSync(join(folder, "adapter", "adapter_model.safetensors")));
    assert.ok(existsSync(join(folder, "outputs", "checkpoint-20")));
  });
});

test("the guide names every option", () => {
  const missing = [...Object.keys(argumentsSchema.shape), ...Object.keys(sftSchema.shape)].filter(
    (name) => !GUIDE.includes(`\`${name}\``) && !["fp16", "bf16", "outputDir"].includes(name),
  );
  assert.deepEqual(missing, []);
});
