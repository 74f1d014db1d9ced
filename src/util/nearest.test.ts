import assert from "node:assert/strict";
import { test } from "node:test";
import { editDistance, nearest } from "./nearest.ts";

test("edit distance counts insertions, deletions, substitutions and swaps", () => {
  assert.equal(editDistance("", ""), 0);
  assert.equal(editDistance("", "abc"), 3);
  assert.equal(editDistance("kitten", "sitting"), 3);
  assert.equal(editDistance("instrution", "instruction"), 1);
  assert.equal(editDistance("ouptut", "output"), 1);
  // Optimal string alignment, not the unrestricted distance (which is 2).
  assert.equal(editDistance("ca", "abc"), 3);
});

test("nearest finds the name that was meant", () => {
  const fields = ["instruction", "input", "output", "messages"];
  assert.equal(nearest("instrution", fields), "instruction");
  assert.equal(nearest("ouptut", fields), "output");
  assert.equal(nearest("Message", fields), "messages");
  assert.equal(nearest("lora_alpha", ["loraAlpha", "loraDropout"]), "loraAlpha");
  assert.equal(nearest("in", fields), null);
  assert.equal(nearest("answer", fields), null);
  assert.equal(nearest("x", []), null);
  assert.equal(nearest("x".repeat(100_000), fields), null);
});
