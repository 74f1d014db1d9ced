import assert from "node:assert/strict";
import { test } from "node:test";
import { oracleFloats, oracleJson, oracleTensors } from "../testing/oracle.ts";
import { adam8bitSizes, decodeAdam8bit, usesAdam8bit, zeroAdam8bitState } from "./adam8bit.ts";

test("which tensors have 8-bit states, and their sizes, are bitsandbytes'", () => {
  const tensors = oracleTensors("optimizers", "adamw.safetensors");
  const { sizes } = oracleJson<{ sizes: Record<string, number> }>("optimizers", "adamw.json");
  for (const [name, n] of Object.entries(sizes)) {
    const state = tensors.get(`${name}.adamw8bit_cpu.1.state1`) ?? tensors.get(`${name}.adamw8bit.1.state1`);
    const eightBit = state?.dtype === "U8";
    assert.equal(usesAdam8bit(n), eightBit, name);
    if (!eightBit) continue;
    for (const [part, length] of Object.entries(adam8bitSizes(n))) {
      assert.deepEqual(tensors.get(`${name}.adamw8bit.1.${part}`)!.shape, [length], `${name} ${part}`);
    }
  }
  assert.ok(usesAdam8bit(4096) && !usesAdam8bit(4095));
  assert.ok(!usesAdam8bit(1e6, { isEmbedding: true }));
  assert.ok(usesAdam8bit(10, { minElements: 10 }));
});

test("the state starts as zero moments", () => {
  const { state1, absmax1, state2, absmax2 } = zeroAdam8bitState(300);
  assert.deepEqual([state1.length, absmax1.length, state2.length, absmax2.length], [300, 2, 300, 2]);
  const map = oracleFloats(oracleTensors("optimizers", "adamw.safetensors"), "qmap1");
  assert.ok(decodeAdam8bit(state1, absmax1, map).every((m) => m === 0));
});
