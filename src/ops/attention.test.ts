import assert from "node:assert/strict";
import { test } from "node:test";
import { keysSeen } from "./attention.ts";

test("queries see as many keys as a count of pairs finds", () => {
  for (const tokens of [1, 7, 300]) {
    assert.equal(keysSeen(tokens, { window: 0, causal: false }), tokens);
    for (const window of [0, 1, 5, 299, 300, 4096]) {
      let pairs = 0;
      for (let query = 0; query < tokens; query++) pairs += window > 0 ? Math.min(window, query + 1) : query + 1;
      const difference = Math.abs(keysSeen(tokens, { window, causal: true }) - pairs / tokens);
      assert.ok(difference <= 0.5, `${tokens} tokens, window ${window}: ${difference}`);
    }
  }
});
