import assert from "node:assert/strict";
import { test } from "node:test";
import type { DeviceTensor } from "../backends/backend.ts";
import { differentiate } from "../graph/autodiff.ts";
import { Graph } from "../graph/graph.ts";
import { constantOp, sub } from "../ops/elementwise.ts";
import { sum } from "../ops/reduce.ts";
import { openBackend, tinyPeft } from "../train/tiny-training.test.support.ts";
import type { LoraPair, ModelAdapter } from "./adapter.ts";
import { DecoderTrace } from "./decoder.ts";
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

test("nothing is differentiated through a muted adapter: a loss against it has the backward pass of the policy alone", async () => {
  const peft = await tinyPeft(await openBackend());
  const { model } = peft;
  const backward = (compared: boolean): string[] => {
    const graph = new Graph();
    const input = (name: string) => graph.input(name, "i32", [12]);
    const tokens = { ids: input("ids"), positions: input("positions"), seqStart: input("start"), seqEnd: input("end") };
    const labels = input("labels");
    const logps = (adapter: ModelAdapter | null) => {
      const trace = new DecoderTrace(graph, model, { maxPositions: 12, adapter });
      return trace.logProbs(trace.hidden(tokens), { labels }).logps;
    };
    const reference = compared ? logps(mutedAdapter(model.adapter!)) : null;
    const policy = logps(model.adapter!);
    const loss = sum(reference ? sub(policy, reference) : policy);
    const seed = graph.inPhase("backward", () => graph.apply(constantOp, [], { value: 1 })[0]!);
    const targets = peft.trainable().map(({ tensor }) => ({ value: graph.use(tensor) }));
    assert.ok(differentiate(graph, loss, targets, seed).every((gradient) => gradient));
    return graph.nodes.filter(({ phase }) => phase === "backward").map(({ op }) => op.name);
  };
  assert.deepEqual(backward(true), backward(false));
  peft.dispose();
});
