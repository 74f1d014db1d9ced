import assert from "node:assert/strict";
import { test } from "node:test";
import { oracleJson } from "../testing/oracle.ts";
import { candidates, chooseToken, penalizeRepetition, type Sampling, samplingSchema } from "./sampling.ts";

interface Filters {
  readonly previous_tokens: number[];
  readonly logits: Record<string, number[]>;
  readonly cases: {
    readonly logits: string;
    readonly settings: Record<string, number>;
    readonly order: string[];
    readonly probabilities: number[];
  }[];
}

const fixture = oracleJson<Filters>("generation", "filters.json");
const NAMES: Record<string, keyof Sampling> = {
  temperature: "temperature",
  top_k: "topK",
  top_p: "topP",
  min_p: "minP",
  repetition_penalty: "repetitionPenalty",
};

for (const { logits: name, settings, probabilities } of fixture.cases) {
  test(`${name} ${JSON.stringify(settings)}: probabilities equal transformers'`, () => {
    const named = Object.fromEntries(Object.entries(settings).map(([key, value]) => [NAMES[key]!, value]));
    const sampling = samplingSchema.parse({ doSample: true, ...named });
    const logits = Float32Array.from(fixture.logits[name]!);
    penalizeRepetition(logits, fixture.previous_tokens, sampling.repetitionPenalty);
    const got = new Float64Array(logits.length);
    const { tokens, probabilities: kept } = candidates(logits, sampling);
    tokens.forEach((token, i) => {
      got[token] = kept[i]!;
    });
    // Between equal logits torch's sort order decides which stays at an edge: the probabilities are the same.
    const tied = new Set(fixture.logits[name]).size < logits.length;
    const [a, b] = tied ? [got.slice().sort(), Float64Array.from(probabilities).sort()] : [got, probabilities];
    a.forEach((p, i) => {
      assert.ok(Math.abs(p - b[i]!) <= 1e-6, `token ${i}: ${p}, expected ${b[i]}`);
    });
  });
}

test("draws follow the probabilities", () => {
  const sampling = samplingSchema.parse({ doSample: true });
  const logits = Float32Array.from([Math.log(0.5), Math.log(0.3), Math.log(0.2)]);
  const counts = [0, 0, 0];
  for (let i = 0; i < 1000; i++) counts[chooseToken(logits, sampling, () => (i + 0.5) / 1000)]!++;
  assert.deepEqual(counts, [500, 300, 200]);
});
