import assert from "node:assert/strict";
import { test } from "node:test";
import { fullMatch, isSuffix, matchNames, patternKey } from "./patterns.ts";

const matches = (pattern: string, name: string): boolean => fullMatch(pattern, "targetModules").test(name);

test("a pattern must match the whole name", () => {
  assert.ok(matches(".*q_proj", "model.layers.0.self_attn.q_proj"));
  assert.ok(!matches("q_proj", "model.layers.0.self_attn.q_proj"));
  assert.ok(!matches("model", "model.layers"));
  // An alternative must not escape the anchors.
  assert.ok(!matches("a|b", "xb"));
});

test("Python's spellings", () => {
  assert.ok(matches("(?i)MODEL", "model"));
  assert.ok(matches("(?P<x>ab)(?P=x)", "abab"));
  assert.ok(matches("\\Amodel\\Z", "model"));
  assert.ok(matches("a{,2}", "aa"));
  assert.ok(!matches("a{,2}", "aaa"));
  assert.ok(matches("[]a]+", "a]"));
  assert.ok(matches("[^]a]+", "bc"));
  assert.ok(!matches("[^]a]+", "b]"));
  assert.ok(matches("a(?#a comment)b", "ab"));
  assert.ok(matches("[(?P<]+", "(?P<"));
  assert.ok(matches("\\(\\?P<", "(?P<"));
});

test("an unusable pattern is named", () => {
  assert.throws(() => fullMatch("(", "file: target_modules"), /file: target_modules: "\(" is not a regular expression/);
  assert.throws(() => fullMatch("a*+", "t"), /"a\*\+" is not a regular expression that can be used here/);
});

test("a pattern made to take for ever is stopped", () => {
  const started = performance.now();
  const expression = fullMatch("(\\w+\\.?)+!", "targetModules");
  assert.throws(
    () => matchNames([expression], ["model.layers.0.self_attn.q_proj.and.some.more.parts"], "targetModules"),
    /targetModules: matching .* took over 2000 ms/,
  );
  assert.ok(performance.now() - started < 10_000);
});

test("keys of rank_pattern match the last parts of a path", () => {
  const rows = matchNames(
    [patternKey("q_proj", "r"), patternKey("layers\\.1\\..*", "r"), patternKey("^model.layers.0.mlp.up_proj", "r")],
    ["model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj", "xq_proj"],
    "rankPattern",
  );
  assert.deepEqual(
    rows.map((row) => [...row]),
    [
      [true, false, false],
      [true, false, false],
      // As in PEFT: the group may be empty, so an anchored full path works.
      [false, true, false],
    ],
  );
});

test("names in lists match whole path parts", () => {
  assert.ok(isSuffix("model.layers.0.self_attn.q_proj", "q_proj"));
  assert.ok(isSuffix("lm_head", "lm_head"));
  assert.ok(!isSuffix("model.layers.0.xq_proj", "q_proj"));
  assert.ok(isSuffix("model.layers.0.mlp.up_proj", "mlp.up_proj"));
});
