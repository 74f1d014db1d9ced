import assert from "node:assert/strict";
import { test } from "node:test";
import type { DeviceTensor } from "../backends/backend.ts";
import type { LoraPair, ModelAdapter } from "./adapter.ts";
import { mutedAdapter } from "./muted-adapter.ts";

const tensor = { name: "some" } as DeviceTensor;
const pair = (more: Partial<LoraPair> = {}): LoraPair => ({ a: tensor, b: tensor, scale: 2, dropout: 0.1, ...more });

const adapter = (modules: Record<string, LoraPair>, base: ModelAdapter | null = null): ModelAdapter => ({
  lora: (module) => modules[module],
  loraEmbedding: () => pair(),
  tokenRows: () => ({ rows: tensor, originals: tensor, oneHot: tensor }),
  replacement: () => tensor,
  base,
});

test("a muted adapter multiplies its updates by 0 and drops nothing; what is computed another way is the base's own", () => {
  const dora = { magnitude: tensor, factors: tensor };
  const muted = mutedAdapter(adapter({ q_proj: pair(), o_proj: pair({ dora }), lm_head: pair() }));
  assert.deepEqual(muted.lora("q_proj"), pair({ scale: 0, dropout: 0 }));
  for (const module of ["o_proj", "lm_head", "k_proj"]) assert.equal(muted.lora(module), undefined);
  assert.equal(muted.loraEmbedding("embed_tokens"), undefined);
  assert.equal(muted.tokenRows?.("embed_tokens"), undefined);
  assert.equal(muted.replacement("lm_head.weight"), undefined);
});

test("a base that makes up for changed weights keeps doing so, at its own scale", () => {
  const base = adapter({ q_proj: pair({ scale: 3 }) });
  assert.equal(mutedAdapter(adapter({ q_proj: pair(), k_proj: pair() }, base)).lora("q_proj")?.scale, 3);
  assert.equal(mutedAdapter(adapter({ q_proj: pair(), k_proj: pair() }, base)).lora("k_proj")?.scale, 0);
});
