import type { DeviceTensor, Executable } from "../backends/backend.ts";
import { Graph, type Value } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import { DecoderTrace, type TokenInputs } from "../models/decoder.ts";
import type { CausalLM } from "../models/model.ts";
import { attention } from "../ops/attention.ts";
import { attentionCached, kvWrite } from "../ops/cache.ts";
import { selectRows } from "../ops/embedding.ts";
import { fuseDecoding } from "../ops/fuse-decoding.ts";
import { SAMPLING_SETTINGS, sample } from "../ops/sampling.ts";

/** A layer's keys and values: [sequences·maxLength, kvHeads·headDim] each. */
export interface LayerCache {
  readonly keys: DeviceTensor;
  readonly values: DeviceTensor;
}

/** What the programs of a session have in common. */
export interface CacheSpec {
  readonly model: CausalLM;
  readonly layers: readonly LayerCache[];
  /** Rows of the cache that a sequence has. */
  readonly maxLength: number;
}

/**
 * What a program gives for the tokens it is asked about: their logits (output: logits [n, vocab]), or the tokens drawn from
 * those (inputs: settings, draws, drawRows; outputs: tokens, logProbs; see sampleOp), with or without a penalty for those `seen`.
 */
export type Head = { readonly kind: "logits" } | { readonly kind: "draw"; readonly seen: DeviceTensor | null };

/**
 * Whole prompts, packed without padding between them: `count` tokens. Inputs: ids, positions, seqStart, seqEnd, slots
 * i32[count]; last i32[ends], the packed indices of the tokens that `head` is for (negative: none).
 */
export function compilePrefill(spec: CacheSpec, count: number, ends: number, head: Head): Executable {
  const { model } = spec;
  const graph = new Graph();
  const { heads, kvHeads, headDim, attentionScale: scale, attentionSoftcap: softcap, windows } = model.config;
  const tokens: TokenInputs = {
    ids: graph.input("ids", "i32", [count]),
    positions: graph.input("positions", "i32", [count]),
    seqStart: graph.input("seqStart", "i32", [count]),
    seqEnd: graph.input("seqEnd", "i32", [count]),
  };
  const slots = graph.input("slots", "i32", [count]);
  const trace = new DecoderTrace(graph, model, { maxPositions: spec.maxLength });
  const hidden = trace.run(tokens, (layer, q, k, v) => {
    write(graph, spec.layers[layer]!, k, v, slots);
    return attention(q, k, v, tokens, { heads, kvHeads, headDim, scale, softcap, window: windows[layer]! });
  });
  giveHead(trace, selectRows(hidden, graph.input("last", "i32", [ends])), head);
  return compile(model, graph, `prefill, ${count} tokens`);
}

/**
 * `count` new tokens of sequences that are in the cache: one each (decoding), or several of some. Inputs: ids, positions,
 * slots, rows, lengths i32[count] (see attentionCached); with `ends`, last i32[ends] chooses the tokens that `head` is for,
 * else it is for all.
 */
export function compileExtend(spec: CacheSpec, count: number, ends: number | null, head: Head): Executable {
  const { model, maxLength } = spec;
  const graph = new Graph();
  const { heads, kvHeads, headDim, attentionScale: scale, attentionSoftcap: softcap, windows } = model.config;
  const input = (name: string) => graph.input(name, "i32", [count]);
  const [ids, positions, slots, rows, lengths] = ["ids", "positions", "slots", "rows", "lengths"].map(input) as [
    Value,
    Value,
    Value,
    Value,
    Value,
  ];
  const trace = new DecoderTrace(graph, model, { maxPositions: maxLength });
  const hidden = trace.run({ ids, positions }, (layer, q, k, v) => {
    const { keys, values } = write(graph, spec.layers[layer]!, k, v, slots);
    const options = { heads, kvHeads, headDim, scale, softcap, window: windows[layer]!, maxLength };
    return attentionCached(q, { keys, values, rows, lengths }, options);
  });
  const wanted = ends === null ? hidden : selectRows(hidden, graph.input("last", "i32", [ends]));
  giveHead(trace, wanted, head);
  if (model.backend.groupsProducts && ends === null) fuseDecoding(graph);
  return compile(model, graph, ends === null ? `decode, ${count} sequences` : `extend, ${count} tokens`);
}

/**
 * `steps` tokens of each of `count` sequences, the next drawn from what the one before gives, without the host in between.
 * Inputs: ids, rows i32[count]; settings, drawRows; and of each step s, positions.s, slots.s, lengths.s i32[count], draws.s.
 * Outputs: tokens.s, logProbs.s.
 */
export function compileSteps(spec: CacheSpec, count: number, steps: number, seen: DeviceTensor | null): Executable {
  const { model, maxLength } = spec;
  const graph = new Graph();
  const { heads, kvHeads, headDim, attentionScale: scale, attentionSoftcap: softcap, windows } = model.config;
  const input = (name: string) => graph.input(name, "i32", [count]);
  const trace = new DecoderTrace(graph, model, { maxPositions: maxLength });
  const caches = spec.layers.map(({ keys, values }) => ({
    keys: graph.use(keys, { mutable: true }),
    values: graph.use(values, { mutable: true }),
  }));
  let ids = input("ids");
  let known = seen && graph.use(seen, { mutable: true });
  for (let step = 0; step < steps; step++) {
    const [slots, lengths] = [input(`slots.${step}`), input(`lengths.${step}`)];
    const hidden = trace.run({ ids, positions: input(`positions.${step}`) }, (layer, q, k, v) => {
      const cache = caches[layer]!;
      cache.keys = kvWrite(cache.keys, k, slots);
      cache.values = kvWrite(cache.values, v, slots);
      const options = { heads, kvHeads, headDim, scale, softcap, window: windows[layer]!, maxLength };
      return attentionCached(q, { ...cache, rows: input("rows"), lengths }, options);
    });
    const drawn = draw(graph, trace.logits(hidden), `draws.${step}`, known);
    graph.output(`tokens.${step}`, drawn.tokens);
    graph.output(`logProbs.${step}`, drawn.logProbs);
    ids = drawn.tokens;
    known = drawn.seen;
  }
  if (model.backend.groupsProducts) fuseDecoding(graph);
  return compile(model, graph, `decode ${steps} of ${count} sequences`);
}

/** Copies `count` rows of every layer's cache. Inputs: from, to i32[count]; a negative `to` is skipped. */
export function compileCopy(spec: CacheSpec, count: number): Executable {
  const graph = new Graph();
  const from = graph.input("from", "i32", [count]);
  const to = graph.input("to", "i32", [count]);
  for (const { keys, values } of spec.layers) {
    for (const tensor of [keys, values]) {
      const cache = graph.use(tensor, { mutable: true });
      kvWrite(cache, selectRows(cache, from), to);
    }
  }
  return compile(spec.model, graph, `copy ${count} rows of the cache`);
}

function giveHead(trace: DecoderTrace, hidden: Value, head: Head): void {
  const { graph } = trace;
  const logits = trace.logits(hidden);
  if (head.kind === "logits") {
    graph.output("logits", logits);
    return;
  }
  const drawn = draw(graph, logits, "draws", head.seen && graph.use(head.seen, { mutable: true }));
  graph.output("tokens", drawn.tokens);
  graph.output("logProbs", drawn.logProbs);
}

function draw(graph: Graph, logits: Value, draws: string, seen: Value | null): ReturnType<typeof sample> {
  const n = logits.shape[0]!;
  return sample(logits, {
    settings: graph.input("settings", "f32", [SAMPLING_SETTINGS.length]),
    draws: graph.input(draws, "u32", [4 * n]),
    rows: graph.input("drawRows", "i32", [n]),
    seen,
  });
}

function write(graph: Graph, layer: LayerCache, k: Value, v: Value, slots: Value): { keys: Value; values: Value } {
  return {
    keys: kvWrite(graph.use(layer.keys, { mutable: true }), k, slots),
    values: kvWrite(graph.use(layer.values, { mutable: true }), v, slots),
  };
}

function compile({ backend }: CausalLM, graph: Graph, name: string): Executable {
  return backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates, name }));
}
