import assert from "node:assert/strict";
import { test } from "node:test";
import { consoleRow } from "./console.ts";

test("rows are printed as Hugging Face prints them", () => {
  assert.equal(
    consoleRow({ loss: 1.23454, grad_norm: 0.51, learning_rate: 1e-5, epoch: 0.1 }),
    "{'loss': 1.2345, 'grad_norm': 0.51, 'learning_rate': 1e-05, 'epoch': 0.1}",
  );
  assert.equal(
    consoleRow({ eval_loss: 2, eval_num_tokens: 123_456, num_input_tokens_seen: 7, learning_rate: 0, epoch: 2 / 3 }),
    "{'eval_loss': 2.0, 'eval_num_tokens': 123456.0, 'num_input_tokens_seen': 7, 'learning_rate': 0.0, 'epoch': 0.67}",
  );
  assert.equal(
    consoleRow({ train_runtime: 12.3456, total_flos: 1e15, train_loss: Number.NaN }),
    "{'train_runtime': 12.35, 'train_loss': nan}",
  );
});
