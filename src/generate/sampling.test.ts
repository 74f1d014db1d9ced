import assert from "node:assert/strict";
import { test } from "node:test";
import { CpuBackend } from "../backends/cpu/backend.ts";
import { Graph } from "../graph/graph.ts";
import { plan } from "../graph/plan.ts";
import { SAMPLING_SETTINGS, sample } from "../ops/sampling.ts";
import { runtimes } from "../testing/kernels.ts";
import { oracleJson } from "../testing/oracle.ts";
import { candidates, logProbability, penalizeRepetition } from "../testing/sampling-reference.ts";
import { type Sampling, samplingSchema } from "./sampling.ts";

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

const CASES = await Promise.all(
  fixture.cases.map(async ({ logits: name, settings }) => {
    const named = Object.fromEntries(Object.entries(settings).map(([key, value]) => [NAMES[key]!, value]));
    return { name, settings, sampling: samplingSchema.parse({ doSample: true, ...named }) };
  }),
);
const ROWS = 2048;

/** Draws of ROWS tokens from the same logits. */
async function drawMany(
  backend: CpuBackend,
  logits: Float32Array,
  sampling: Sampling,
): Promise<Record<string, Float32Array>> {
  const vocab = logits.length;
  const words = Math.ceil(vocab / 32);
  const seen = backend.createTensor("seen", "u32", [ROWS, words], { role: "cache" });
  const bits = new Uint32Array(words);
  for (const token of fixture.previous_tokens) bits[token >> 5]! |= 1 << (token & 31);
  for (let row = 0; row < ROWS; row++) seen.write(new Uint8Array(bits.buffer), { offset: 4 * row * words });
  const graph = new Graph();
  const drawn = sample(graph.input("logits", "f32", [ROWS, vocab]), {
    settings: graph.input("settings", "f32", [5]),
    draws: graph.input("draws", "u32", [4 * ROWS]),
    rows: graph.input("rows", "i32", [ROWS]),
    seen: graph.use(seen, { mutable: true }),
  });
  graph.output("tokens", drawn.tokens);
  graph.output("logProbs", drawn.logProbs);
  const executable = backend.compile(plan(graph, { workspaceOf: backend.workspaceOf, rates: backend.rates }));
  const repeated = new Float32Array(ROWS * vocab);
  for (let row = 0; row < ROWS; row++) repeated.set(logits, row * vocab);
  const result = await executable.execute({
    logits: repeated,
    settings: Float32Array.from(SAMPLING_SETTINGS, (name) => sampling[name]),
    draws: Uint32Array.from({ length: 4 * ROWS }, (_, i) => [7, 0, i >> 2, 3][i % 4]!),
    rows: Int32Array.from({ length: ROWS }, (_, row) => row),
  });
  const marked = new Uint32Array((await seen.read()).buffer);
  result.tokens!.forEach((token, row) => {
    assert.ok((marked[row * words + (token >> 5)]! >>> (token & 31)) & 1, "a drawn token counts as seen");
  });
  executable.dispose();
  seen.dispose();
  return result;
}

const BACKENDS = [...(await runtimes())]
  .filter(([name]) => name.includes("2 thread"))
  .map(([name, runtime]) => [name, new CpuBackend(runtime)] as const);
for (const { name, settings, sampling } of CASES) {
  test(`${name} ${JSON.stringify(settings)}: the kernel draws by them (chi-square)`, async () => {
    const plain = Float32Array.from(fixture.logits[name]!);
    const logits = plain.slice();
    penalizeRepetition(logits, fixture.previous_tokens, sampling.repetitionPenalty);
    const { tokens, probabilities } = candidates(logits, sampling);
    for (const [label, backend] of BACKENDS) {
      const drawn = await drawMany(backend, plain, sampling);
      const counts = new Float64Array(plain.length);
      for (const token of drawn.tokens!) counts[token]!++;
      // Equals at an edge all stay in the kernel, and share what one of them has in the reference.
      const edge = logits[tokens.at(-1)!]!;
      const inside = logits.map((logit) => (logit >= edge ? 1 : 0));
      counts.forEach((count, token) => assert.ok(count === 0 || inside[token], `${label}: token ${token} was drawn`));
      const tied = inside.reduce((sum, x) => sum + x, 0) > tokens.length;
      let [chiSquare, freedom] = [0, -1];
      tokens.forEach((token, i) => {
        const expected = ROWS * probabilities[i]!;
        if (tied || expected < 5) return;
        chiSquare += (counts[token]! - expected) ** 2 / expected;
        freedom++;
      });
      // Mean plus five standard deviations; the rare ones that are left out only make it smaller.
      assert.ok(chiSquare <= freedom + 1 + 5 * Math.sqrt(2 * (freedom + 1)), `${label}: ${chiSquare} of ${freedom}`);
      for (let row = 0; row < 64; row++) {
        const expected = logProbability(plain, drawn.tokens![row]!, sampling.temperature);
        assert.ok(Math.abs(drawn.logProbs![row]! - expected) < 1e-4, `${label}: ${drawn.logProbs![row]}, ${expected}`);
      }
    }
  });
}
