import { graphOf, type Value } from "../graph/graph.ts";
import type { Op } from "../graph/op.ts";
import { expectSpec, matrix, required } from "./check.ts";

/** Numbers that decide what may be drawn, in the order of the op's `settings`. */
export const SAMPLING_SETTINGS = ["temperature", "topK", "topP", "minP", "repetitionPenalty"] as const;

/**
 * The next token of each row of logits f32 [n, V]: at temperature 0 the most likely (the first of equals), else drawn. In
 * order: logits of tokens in `seen` are divided (when negative, multiplied) by the repetition penalty (Keskar et al.
 * 2019); divided by the temperature; only the topK largest stay (0: all), of these the most likely that together reach topP
 * (1: all), of these those with at least minP times the probability of the likeliest; equals at an edge stay. Drawn as the
 * largest of logit + Gumbel noise, in f32, the noise from Philox with key draws[0..1] and counter (token / 4, draws[2..3]).
 *
 * Inputs: logits, settings f32[5], draws u32[4n], rows i32[n] (the row of `seen`; negative: nothing is to be drawn), seen?
 * u32 [m, ⌈V/32⌉], a bit a token. Outputs: tokens i32[n]; logProbs f32[n], over the whole vocabulary at the temperature (at 1
 * when it is 0), before the penalty; and seen with the new tokens in it.
 */
export const sampleOp: Op<Record<string, never>> = {
  name: "sample",
  infer(inputs) {
    const logits = required("sample", "logits", inputs, 0);
    const [n, vocab] = matrix("sample", "logits", logits);
    expectSpec("sample", "logits", logits, "f32", [n, vocab]);
    expectSpec("sample", "settings", required("sample", "settings", inputs, 1), "f32", [SAMPLING_SETTINGS.length]);
    expectSpec("sample", "draws", required("sample", "draws", inputs, 2), "u32", [4 * n]);
    expectSpec("sample", "rows", required("sample", "rows", inputs, 3), "i32", [n]);
    const seen = inputs[4];
    if (seen) expectSpec("sample", "seen", seen, "u32", [-1, Math.ceil(vocab / 32)]);
    return [
      { dtype: "i32", shape: [n] },
      { dtype: "f32", shape: [n] },
      ...(seen ? [{ dtype: seen.dtype, shape: seen.shape }] : []),
    ];
  },
  cost: (node) => ({ flops: 0, bytes: node.inputs[0]!.bytes }),
  inPlace: (node) => (node.inputs[4] ? [[2, 4]] : []),
};

/** The next tokens i32[n] and their log-probabilities f32[n]; what comes after uses the `seen` that is given back. */
export function sample(
  logits: Value,
  from: { settings: Value; draws: Value; rows: Value; seen: Value | null },
): { tokens: Value; logProbs: Value; seen: Value | null } {
  const inputs = [logits, from.settings, from.draws, from.rows, from.seen];
  const [tokens, logProbs, seen] = graphOf(inputs).apply(sampleOp, inputs, {});
  return { tokens: tokens!, logProbs: logProbs!, seen: seen ?? null };
}
