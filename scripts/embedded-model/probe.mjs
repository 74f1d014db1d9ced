// How well a model does what it was pre-trained for: facts by operation and word problems, asked as the corpus asks them.
import { generate, promptIds } from "../../dist/index.js";
import { Rng } from "../../dist/util/rng.js";
import { difference, equation, product, quotient, sum } from "./arithmetic.mjs";
import { problem } from "./problems.mjs";

const FACTS = { sum, difference, product, quotient };

/** Shares of right answers, greedily generated, over `count` problems of each kind. */
export async function probe(model, tokenizer, { count = 50, seed = 99 } = {}) {
  const rng = new Rng(seed);
  const cases = Object.entries(FACTS).flatMap(([kind, make]) =>
    Array.from({ length: count }, () => {
      const fact = make(rng);
      return { kind, prompt: `What is ${fact.a}${fact.op}${fact.b}?`, expected: equation(fact) };
    }),
  );
  for (let i = 0; i < count; i++) {
    const { question, answer } = problem(rng);
    cases.push({ kind: "problem", prompt: question, expected: /^\S*=\d+/.exec(answer)[0] });
  }
  const prompts = cases.map(({ prompt }) => promptIds(tokenizer, prompt));
  const outputs = await generate(model, tokenizer, prompts, { maxNewTokens: 40 });
  const right = {};
  cases.forEach(({ kind, expected }, i) => {
    right[kind] = (right[kind] ?? 0) + Number(/^\S*=\d+/.exec(outputs[i].text)?.[0] === expected) / count;
  });
  return Object.fromEntries(Object.entries(right).map(([kind, share]) => [kind, Number(share.toFixed(3))]));
}
