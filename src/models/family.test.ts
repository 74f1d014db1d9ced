import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fixtures } from "../formats/files.test.support.ts";
import { parseConfig } from "./family.ts";
import { FAMILY_FIXTURES, familyModel, readJson } from "./load/checkpoint.test.support.ts";

test("a config.json in transformers 4's words means the same as in version 5's", () => {
  for (const family of FAMILY_FIXTURES) {
    const v4 = parseConfig(readJson(join(fixtures("oracle"), "families", family), "config.v4.json"), "v4");
    const v5 = parseConfig(readJson(familyModel(family)), "v5");
    assert.deepEqual(v4.decoder, v5.decoder, family);
  }
});

test("Mistral without a word on its window has Hugging Face's default, with null none", () => {
  const { sliding_window: _, ...config } = readJson(familyModel("mistral"));
  assert.deepEqual(parseConfig(config, "c").decoder.windows, [4096, 4096]);
  assert.deepEqual(parseConfig({ ...config, sliding_window: null }, "c").decoder.windows, [0, 0]);
});
