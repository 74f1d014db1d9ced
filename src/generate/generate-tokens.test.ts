import assert from "node:assert/strict";
import { test } from "node:test";
import { CpuBackend } from "../backends/cpu/backend.ts";
import { runtimes } from "../testing/kernels.ts";
import { forwardLogits } from "../testing/model-run.ts";
import { candidates, logProbability } from "../testing/sampling-reference.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import { generateTokens } from "./generate-tokens.ts";
import { DecodingSession } from "./session.ts";

const [, runtime] = [...(await runtimes())].find(([name]) => name.includes("2 thread"))!;
const backend = new CpuBackend(runtime);
const model = tinyModel(backend);
const { vocabSize } = model.config;
const PROMPTS = [[1, 2, 3], [4, 5], Array.from({ length: 40 }, (_, i) => (7 * i) % vocabSize), [9]];

/** Logits after each of the last `count` tokens of a sequence but its very last. */
async function lastLogits(sequence: readonly number[], count: number): Promise<Float32Array[]> {
  const [whole] = await forwardLogits(model, [sequence]);
  return Array.from({ length: count }, (_, i) => {
    const at = sequence.length - count - 1 + i;
    return whole!.subarray(at * vocabSize, (at + 1) * vocabSize);
  });
}

test("greedy completions of a batch follow the full forward pass; stop tokens end them", async () => {
  using session = new DecodingSession(model, 4, 64);
  const { tokens, finished, logProbs } = await generateTokens(session, PROMPTS, {
    maxNewTokens: 10,
    temperature: 0,
    logProbs: true,
  });
  for (const [i, prompt] of PROMPTS.entries()) {
    const logits = await lastLogits([...prompt, ...tokens[i]!], 10);
    const best = logits.map((row) => row.indexOf(Math.max(...row)));
    assert.deepEqual(tokens[i], best, `prompt ${i}`);
    logits.forEach((row, t) => {
      const expected = logProbability(row, best[t]!, 1);
      assert.ok(Math.abs(logProbs![i]![t]! - expected) < 1e-4, `${logProbs![i]![t]}, expected ${expected}`);
    });
  }
  assert.deepEqual(finished, [false, false, false, false]);
  const stop = tokens[0]![4]!;
  const stopped = await generateTokens(session, PROMPTS, { maxNewTokens: 10, temperature: 0, stopTokenIds: [stop] });
  tokens.forEach((whole, i) => {
    const at = whole.indexOf(stop);
    assert.deepEqual(stopped.tokens[i], at < 0 ? whole : whole.slice(0, at + 1));
    assert.equal(stopped.finished[i], at >= 0);
  });
});

test("a group's completions equal those of as many separate prompts, in turns or at once", async () => {
  const settings = { maxNewTokens: 12, seed: 3, topP: 0.9, repetitionPenalty: 1.1, logProbs: true };
  using wide = new DecodingSession(model, 12, 64);
  using narrow = new DecodingSession(model, 4, 64);
  const grouped = await generateTokens(wide, PROMPTS, { ...settings, numReturnSequences: 3 });
  const separate = await generateTokens(
    wide,
    PROMPTS.flatMap((prompt) => [prompt, prompt, prompt]),
    settings,
  );
  const inTurns = await generateTokens(narrow, PROMPTS, { ...settings, numReturnSequences: 3 });
  for (const other of [separate, inTurns]) {
    assert.deepEqual(other.tokens, grouped.tokens);
    other.logProbs!.forEach((row, i) => {
      row.forEach((value, t) => {
        assert.ok(Math.abs(value - grouped.logProbs![i]![t]!) < 1e-4);
      });
    });
  }
  assert.equal(new Set(grouped.tokens.map(String)).size, 12, "completions of one prompt differ");
});

test("a session gives the same again, and sees weights that have changed in place", async () => {
  using changing = tinyModel(backend, "qwen2");
  using session = new DecodingSession(changing, 2, 32);
  const run = () => generateTokens(session, [[1, 2, 3]], { maxNewTokens: 8, seed: 5, numReturnSequences: 2 });
  const first = await run();
  assert.deepEqual(await run(), first);
  session.reset();
  assert.deepEqual(session.tokens(0), []);
  const embeddings = changing.parameter("model.embed_tokens.weight");
  const original = await embeddings.read();
  const floats = new Float32Array(original.slice().buffer).reverse();
  embeddings.write(new Uint8Array(floats.buffer));
  assert.notDeepEqual(await run(), first);
  embeddings.write(original);
  assert.deepEqual(await run(), first);
});

test("a kept prefix gives what the whole prompt gives", async () => {
  using session = new DecodingSession(model, 2, 96);
  using fresh = new DecodingSession(model, 2, 96);
  const options = { maxNewTokens: 6, temperature: 0 };
  const [first] = (await generateTokens(session, [PROMPTS[2]!], options)).tokens;
  for (const prompt of [
    [...PROMPTS[2]!, ...first!, 8, 9, 10], // the conversation goes on
    PROMPTS[2]!, // the same again
    [...PROMPTS[2]!.slice(0, 20), 50, 51, 52], // another end
    [60, 1], // nothing in common
  ]) {
    const kept = await generateTokens(session, [prompt], { ...options, keepPrefix: true });
    assert.deepEqual(kept, await generateTokens(fresh, [prompt], options));
    assert.deepEqual(session.tokens(0), [...prompt, ...kept.tokens[0]!.slice(0, -1)]);
  }
});

test("draws have the probabilities of the filtered softmax (chi-square)", async () => {
  using session = new DecodingSession(model, 64, 8);
  const draws = 6400;
  const filters = { temperature: 1.3, topK: 20, topP: 0.95, minP: 0.02 };
  const [logits] = await lastLogits([1, 2, 3, 0], 1);
  const counts = new Map<number, number>();
  for (let seed = 0; seed < draws / 64; seed++) {
    const options = { ...filters, maxNewTokens: 1, seed: 1000 * seed, numReturnSequences: 64 };
    for (const [token] of (await generateTokens(session, [[1, 2, 3]], options)).tokens) {
      counts.set(token!, (counts.get(token!) ?? 0) + 1);
    }
  }
  const { tokens, probabilities } = candidates(logits!, filters);
  let chiSquare = 0;
  tokens.forEach((token, i) => {
    const expected = draws * probabilities[i]!;
    chiSquare += ((counts.get(token) ?? 0) - expected) ** 2 / expected;
    counts.delete(token);
  });
  assert.equal(counts.size, 0, `tokens outside the filters were drawn: ${[...counts.keys()]}`);
  const freedom = tokens.length - 1;
  // Mean plus five standard deviations: one in a million at these degrees of freedom.
  assert.ok(chiSquare < freedom + 5 * Math.sqrt(2 * freedom), `chi-square ${chiSquare} of ${freedom}`);
});

test("several steps at once draw what single steps draw", async () => {
  const draws = (step: number) => ({
    temperature: 1.2,
    topK: 0,
    topP: 0.9,
    minP: 0,
    repetitionPenalty: 1.3,
    seed: 9,
    step,
    firstIndex: 4,
  });
  const run = async (steps: number) => {
    using session = new DecodingSession(model, 3, 64);
    const [first, , third] = await session.prefillAndDraw(PROMPTS.slice(0, 3), draws(0));
    let next: (number | null)[] = [first!.token, null, third!.token];
    const rows: unknown[] = [];
    for (let step = 1; step < 7; step += steps) {
      const drawn = await session.decodeAndDraw(next, draws(step), { steps });
      next = drawn.at(-1)!.map(({ token }, i) => (i === 1 ? null : token));
      for (const row of drawn) rows.push(row[0], row[2]);
    }
    return { rows, cached: [0, 1, 2].map((i) => [...session.tokens(i)]) };
  };
  const single = await run(1);
  assert.deepEqual(await run(3), single);
  assert.equal(single.cached[0]!.length, PROMPTS[0]!.length + 6);
});

test("an aborted call leaves the session usable; onToken may end a completion", async () => {
  using session = new DecodingSession(model, 2, 64);
  const controller = new AbortController();
  const options = { maxNewTokens: 20, temperature: 0 };
  const whole = await generateTokens(session, [PROMPTS[0]!], options);
  let seen = 0;
  await assert.rejects(
    generateTokens(session, [PROMPTS[0]!], {
      ...options,
      signal: controller.signal,
      onToken: () => {
        if (++seen === 3) controller.abort();
        return false;
      },
    }),
    { name: "AbortError" },
  );
  assert.deepEqual(await generateTokens(session, [PROMPTS[0]!], { ...options, keepPrefix: true }), whole);
  const ended = await generateTokens(session, [PROMPTS[0]!], {
    ...options,
    onToken: (token) => token === whole.tokens[0]![6],
  });
  const at = whole.tokens[0]!.indexOf(whole.tokens[0]![6]!);
  assert.deepEqual(ended, { tokens: [whole.tokens[0]!.slice(0, at + 1)], finished: [true] });
});

test("bad requests say what is wrong", async () => {
  using session = new DecodingSession(model, 2, 16);
  await assert.rejects(generateTokens(session, [[1]], { numReturnSequences: 3 }), /the session has 2 sequences/);
  await assert.rejects(
    generateTokens(session, [[1, 2]], { maxNewTokens: 16 }),
    /2 tokens and up to 16 follow.*takes 16/,
  );
  await assert.rejects(generateTokens(session, [[1]], { topp: 1 } as never), /did you mean "topP"/);
  const penalised = {
    seed: 0,
    step: 0,
    firstIndex: 0,
    temperature: 1,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 2,
  };
  await assert.rejects(session.prefillAndDraw([[1], [2], [3]], penalised), /3 prompts in 1 copies: .* room for 2/);
  assert.throws(() => new DecodingSession(model, 0, 16), /batch must be a whole number of at least 1/);
});
