import assert from "node:assert/strict";
import { test } from "node:test";
import type { RopeConfig } from "../config.ts";
import { parseConfig } from "../family.ts";
import { inverseFrequencies } from "../rope-table.ts";
import { ropeScalingFromFactors } from "./gguf-rope.ts";

/** The factors llama.cpp's converter writes, in f32. */
function factorsOf(rope: RopeConfig, headDim: number): number[] {
  const plain = inverseFrequencies({ ...rope, scaling: { type: "default" } }, headDim);
  return Array.from(inverseFrequencies(rope, headDim), (f, i) => Math.fround(plain[i]! / f));
}

const llama3 = (factor: number, high: number, positions: number) =>
  ({ type: "llama3", factor, lowFreqFactor: 1, highFreqFactor: high, originalMaxPositions: positions }) as const;

test("Llama 3's parameters are found again from its factors", () => {
  // Llama 3.1 8B, Llama 3.2 1B, and a made-up one.
  for (const [headDim, factor, high, positions] of [
    [128, 8, 4, 8192],
    [64, 32, 4, 8192],
    [128, 16, 6, 4096],
  ] as const) {
    const rope = { theta: 500000, scaling: llama3(factor, high, positions) };
    assert.deepEqual(ropeScalingFromFactors(factorsOf(rope, headDim), rope.theta), {
      rope_type: "llama3",
      factor,
      low_freq_factor: 1,
      high_freq_factor: high,
      original_max_position_embeddings: positions,
    });
  }
});

test("a scale common to all three parameters is taken out, and the frequencies are the same", () => {
  const scaling = { ...llama3(8, 8, 16384), lowFreqFactor: 2 };
  const factors = factorsOf({ theta: 500000, scaling }, 128);
  const found = ropeScalingFromFactors(factors, 500000);
  assert.equal(found.rope_type, "llama3");
  assert.equal(found.high_freq_factor, 4);
  assert.equal(found.original_max_position_embeddings, 8192);
});

test("other factors become a table that the configuration reads back", () => {
  for (const factors of [
    [1, 2, 3, 4],
    [1, 1, 1, 1],
    [2, 2, 2, 2],
    [4, 1, 1, 4],
  ]) {
    const json = {
      model_type: "llama",
      vocab_size: 8,
      hidden_size: 8,
      intermediate_size: 8,
      num_hidden_layers: 1,
      num_attention_heads: 1,
      rope_theta: 10000,
      rope_scaling: ropeScalingFromFactors(factors, 10000),
    };
    const { rope } = parseConfig(json, "test").decoder;
    const plain = inverseFrequencies({ theta: 10000, scaling: { type: "default" } }, 8);
    const got = inverseFrequencies(rope, 8);
    factors.forEach((factor, i) => assert.ok(Math.abs((got[i]! * factor) / plain[i]! - 1) < 1e-5));
  }
});

test("LongRoPE proper is refused", () => {
  const base = { vocab_size: 8, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 1 };
  const config = (scaling: object) => ({ model_type: "llama", ...base, rope_scaling: scaling });
  const four = [1, 2, 3, 4];
  for (const scaling of [
    { rope_type: "longrope", short_factor: four, long_factor: [1, 2, 3, 5], attention_factor: 1 },
    { rope_type: "longrope", short_factor: four, long_factor: four },
    { rope_type: "longrope", attention_factor: 1 },
  ]) {
    assert.throws(() => parseConfig(config(scaling), "c.json"), /c\.json: rope type "longrope" is supported only with/);
  }
  const three = { rope_type: "longrope", short_factor: [1, 2, 3], long_factor: [1, 2, 3], attention_factor: 1 };
  assert.throws(() => parseConfig(config(three), "c.json"), /long_factor has 3 entries; expected 4/);
});
