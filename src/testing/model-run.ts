import { Graph } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import { DecoderTrace } from "../models/decoder.ts";
import type { CausalLM } from "../models/model.ts";

/**
 * Logits of whole sequences, [T_i · vocab] each, computed as one packed batch: what a forward pass of the model gives,
 * adapter included. Arena memory that is no longer live is poisoned, so that a read of a dead value gives NaNs.
 */
export async function forwardLogits(
  model: CausalLM,
  sequences: readonly (readonly number[])[],
): Promise<Float32Array[]> {
  const ids = sequences.flat();
  const positions: number[] = [];
  const seqStart: number[] = [];
  const seqEnd: number[] = [];
  for (const { length } of sequences) {
    const start = positions.length;
    for (let i = 0; i < length; i++) {
      positions.push(i);
      seqStart.push(start);
      seqEnd.push(start + length);
    }
  }
  const { backend } = model;
  const graph = new Graph();
  const input = (name: string) => graph.input(name, "i32", [ids.length]);
  const trace = new DecoderTrace(graph, model, { maxPositions: Math.max(...positions) + 1 });
  const tokens = {
    ids: input("ids"),
    positions: input("positions"),
    seqStart: input("seqStart"),
    seqEnd: input("seqEnd"),
  };
  graph.output("logits", trace.logits(trace.hidden(tokens)));
  const program = plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates, name: "forward" });
  const { poison } = backend;
  backend.poison = true;
  const executable = backend.compile(program);
  backend.poison = poison;
  try {
    const arrays = { ids, positions, seqStart, seqEnd };
    const inputs = Object.fromEntries(Object.entries(arrays).map(([name, list]) => [name, Int32Array.from(list)]));
    const { logits } = await executable.execute(inputs);
    const vocab = model.config.vocabSize;
    return sequences.map(({ length }, i) => {
      const start = sequences.slice(0, i).reduce((sum, s) => sum + s.length, 0);
      return logits!.subarray(start * vocab, (start + length) * vocab);
    });
  } finally {
    executable.dispose();
  }
}
