import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runGuide } from "../train/guide.test.support.ts";
import { adaLoraShape } from "./adalora-config.ts";
import { loraSchema } from "./lora-config.ts";

const GUIDE = readFileSync(new URL("../../docs/peft.md", import.meta.url), "utf8");

function writeChats(folder: string): void {
  const chats = Array.from({ length: 12 }, (_, i) => ({
    messages: [
      { role: "user", content: `${i} and one?` },
      { role: "assistant", content: `${i + 1}` },
    ],
  }));
  writeFileSync(join(folder, "chats.jsonl"), chats.map((row) => `${JSON.stringify(row)}\n`).join(""));
}

test("every example of the guide runs", async () => {
  await runGuide(GUIDE, { examples: 7, prepare: writeChats }, (folder) => {
    const config = (name: string) => JSON.parse(readFileSync(join(folder, name, "adapter_config.json"), "utf8"));
    assert.equal(config("adapter").use_rslora, true);
    assert.equal(config("adalora").peft_type, "ADALORA");
    assert.ok(existsSync(join(folder, "adalora", "adalora_ranks.svg")));
    assert.deepEqual([config("pissa").r, config("pissa").init_lora_weights], [16, true]);
  });
});

test("the guide names every option", () => {
  const told = new Set([...GUIDE.matchAll(/`?(\w+)`?:? ?/g)].map(([, word]) => word));
  const rest = ["taskType", "inferenceMode", "ensureWeightTying"];
  const missing = [...Object.keys(loraSchema.shape), ...Object.keys(adaLoraShape)].filter(
    (name) => !told.has(name) && !rest.includes(name),
  );
  assert.deepEqual(missing, []);
});
