import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../formats/files.test.support.ts";
import { MemoryPlanError, numel } from "../../graph/types.ts";
import { parseConfig } from "../family.ts";
import { parameterSpecs } from "../parameters.ts";
import { availableMemory, controlGroupHeadroom } from "./available-memory.ts";
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

test("the process's own limits are found, by either version of control groups", (t) => {
  const root = temporaryFolder(t);
  const write = (path: string, text: string) => {
    mkdirSync(join(root, path, ".."), { recursive: true });
    writeFileSync(join(root, path), text);
  };
  const headroom = (membership: string) => {
    write("membership", membership);
    return controlGroupHeadroom(join(root, "membership"), join(root, "groups"));
  };
  write("groups/pods/memory.max", "1000\n");
  write("groups/pods/memory.current", "900\n");
  write("groups/pods/memory.stat", "anon 300\ninactive_file 500\nactive_file 100\n");
  write("groups/pods/mine/memory.max", "max\n");
  write("groups/pods/mine/memory.current", "800\n");
  // The parent's limit holds; of its 900 bytes 600 are cached files, which give way.
  assert.equal(headroom("0::/pods/mine\n"), 700);
  assert.equal(headroom("0::/elsewhere\n"), Number.POSITIVE_INFINITY);
  write("groups/memory/limit_v1/memory.limit_in_bytes", "5000");
  write("groups/memory/limit_v1/memory.usage_in_bytes", "4000");
  write("groups/memory/limit_v1/memory.stat", "total_inactive_file 10\ntotal_active_file 20\ninactive_file 7\n");
  assert.equal(headroom("12:cpu:/limit_v1\n4:hugetlb,memory:/limit_v1\n"), 1030);
  assert.equal(controlGroupHeadroom(join(root, "nothing"), root), Number.POSITIVE_INFINITY);
});

test("there is some memory on this machine", () => {
  assert.ok(availableMemory() > 2 ** 20);
});
