import assert from "node:assert/strict";
import { test } from "node:test";
import { CpuBackend } from "../backends/cpu/backend.ts";
import { loadModel } from "../models/load/load.ts";
import { runtimes } from "../testing/kernels.ts";
import { oracleJson, oraclePath } from "../testing/oracle.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import { generate } from "./generate.ts";

interface Greedy {
  readonly max_new_tokens: number;
  readonly cases: {
    readonly model: string;
    readonly prompts: number[][];
    readonly runs: { readonly repetition_penalty: number; readonly new_tokens: number[][] }[];
  }[];
}

const { max_new_tokens: maxNewTokens, cases } = oracleJson<Greedy>("generation", "greedy.json");

/** One character a token, with the fixtures' EOS (id 2). */
const tokenizer = Tokenizer.fromFiles({
  "tokenizer.json": JSON.stringify({
    added_tokens: [
      { id: 2, content: "</s>", special: true, single_word: false, lstrip: false, rstrip: false, normalized: false },
    ],
    model: {
      type: "BPE",
      vocab: Object.fromEntries(
        Array.from({ length: 130 }, (_, i) => [i === 2 ? "</s>" : String.fromCharCode(0x4e00 + i), i]),
      ),
      merges: [],
    },
    pre_tokenizer: null,
    normalizer: null,
    decoder: { type: "Fuse" },
    post_processor: null,
  }),
  "tokenizer_config.json": JSON.stringify({ eos_token: "</s>" }),
});

const [, runtime] = [...(await runtimes())].find(([name]) => name.includes("2 thread"))!;
const backend = new CpuBackend(runtime);

for (const { model: path, prompts, runs } of cases) {
  for (const { repetition_penalty: repetitionPenalty, new_tokens: expected } of runs) {
    test(`${path}, repetition penalty ${repetitionPenalty}: greedy tokens equal transformers'`, async () => {
      using model = await loadModel({ path: oraclePath(path), backend });
      const batch = await generate(model, tokenizer, prompts, { maxNewTokens, repetitionPenalty });
      assert.deepEqual(
        batch.map(({ tokens }) => tokens),
        expected,
      );
      const longest = Math.max(...prompts.map((prompt) => prompt.length));
      const padded = prompts.map((prompt) => [...new Array<number>(longest - prompt.length).fill(0), ...prompt]);
      const attentionMask = prompts.map((prompt) => [
        ...new Array<number>(longest - prompt.length).fill(0),
        ...new Array<number>(prompt.length).fill(1),
      ]);
      const again = await generate(model, tokenizer, padded, { maxNewTokens, repetitionPenalty, attentionMask });
      assert.deepEqual(again, batch, "left-padded");
      const alone = await generate(model, tokenizer, [prompts[1]!], { maxNewTokens, repetitionPenalty });
      assert.deepEqual(alone[0]!.tokens, expected[1], "alone");
    });
  }
}

test("stop strings end a sequence, streaming gives the same text, sampling repeats by seed", async () => {
  using model = await loadModel({ path: oraclePath(cases[0]!.model), backend });
  const prompt = cases[0]!.prompts[0]!;
  const options = { maxNewTokens: 12, doSample: true, temperature: 1.5, topK: 30, topP: 0.95, seed: 5 };
  const pieces: string[] = [];
  const [first] = await generate(model, tokenizer, [prompt], { ...options, onText: (text) => pieces.push(text) });
  const [second] = await generate(model, tokenizer, [prompt], options);
  assert.deepEqual(second, first);
  assert.equal(pieces.join(""), first!.text);
  const other = await generate(model, tokenizer, [prompt], { ...options, seed: 6 });
  assert.notDeepEqual(other[0], first);
  const stop = first!.text.slice(4, 6);
  const [stopped] = await generate(model, tokenizer, [prompt], { ...options, stopStrings: [stop] });
  assert.equal(stopped!.finishReason, "stop");
  assert.equal(stopped!.text, first!.text.slice(0, first!.text.indexOf(stop)));
});

test("bad requests say what is wrong", async () => {
  using model = await loadModel({ path: oraclePath(cases[0]!.model), backend });
  await assert.rejects(generate(model, tokenizer, [[]]), /prompt 0 is empty/);
  await assert.rejects(generate(model, tokenizer, [[1, 5000]]), /prompt 0 has token 5000; the model knows 0 to/);
  await assert.rejects(generate(model, tokenizer, [[1]], { temperture: 1 } as never), /did you mean "temperature"/);
});
