import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryPlanError, numel } from "../../graph/types.ts";
import { parseConfig } from "../family.ts";
import { parameterSpecs } from "../parameters.ts";
import { checkMemory } from "./memory.ts";
import type { DenseWeight } from "./source.ts";
import { planStorage, type StorageOptions } from "./storage.ts";

const LLAMA_8B = {
  model_type: "llama",
  vocab_size: 128256,
  hidden_size: 4096,
  intermediate_size: 14336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
};

function weights() {
  const read = () => assert.fail("nothing is read to know the size");
  return parameterSpecs(parseConfig(LLAMA_8B, "config.json").decoder).map((spec) => {
    const { name, shape } = spec;
    const fileBytes = 2 * numel(shape);
    const weight: DenseWeight = { kind: "dense", name, dtype: "bf16", decoded: false, shape, fileBytes, read };
    return { spec, weight };
  });
}

function refusal(options: StorageOptions, gibibytes: number): MemoryPlanError {
  try {
    checkMemory("llama-8b", planStorage(weights(), options), options, gibibytes * 2 ** 30);
  } catch (error) {
    assert.ok(error instanceof MemoryPlanError);
    return error;
  }
  return assert.fail("it was not refused");
}

test("what is needed, what there is and what would fit are said before anything is read", () => {
  const bf16 = refusal({}, 8);
  assert.match(
    bf16.message,
    /^llama-8b: its weights need 15\.0 GiB of memory; 8\.0 GiB is available; what would fit: /,
  );
  assert.match(bf16.message, /what would fit: loadIn4bit \(5\.3 GiB\)$/);
  // 8.03e9 numbers of 2 bytes; norms have two bytes more each.
  assert.equal(bf16.needed, 2 * 8_030_261_248 + 2 * 4096 * 65 + 32 * 2 ** 20);
  assert.match(
    refusal({ dtype: "float32" }, 16).message,
    /fit: dtype: bfloat16 \(15\.0 GiB\), loadIn4bit \(5\.3 GiB\)$/,
  );
  assert.match(
    refusal({ fullFinetuning: true }, 8).message,
    /need 29\.9 GiB .* what would fit: loadIn4bit \(5\.3 GiB\)$/,
  );
  assert.match(refusal({}, 4).message, /even loadIn4bit needs 5\.3 GiB: use a smaller model/);
  assert.match(
    refusal({ loadIn4bit: true }, 4).message,
    /available; use a smaller model or a machine with more memory$/,
  );
});

test("what fits passes", () => {
  checkMemory("llama-8b", planStorage(weights(), { loadIn4bit: true }), { loadIn4bit: true }, 6 * 2 ** 30);
});
