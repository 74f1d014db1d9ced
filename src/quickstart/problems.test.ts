import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Rng } from "../util/rng.ts";
import { finalAnswer } from "./evaluate.ts";
import { FAMILIES } from "./families.ts";
import { drawMistake } from "./mistakes.ts";
import { generateProblems } from "./problems.ts";

const examples = join(import.meta.dirname, "..", "..", "examples", "quickstart");
const sets = generateProblems({ train: 2000, test: 200, seed: 3407 });

test("the same seed gives the rows under examples/, another seed others", () => {
  for (const name of ["train", "test"] as const) {
    const lines = sets[name].map(({ row }) => JSON.stringify(row));
    assert.equal(readFileSync(join(examples, `${name}.jsonl`), "utf8"), `${lines.join("\n")}\n`, name);
  }
  const other = generateProblems({ train: 20, test: 5, seed: 3408 });
  assert.notDeepEqual(
    other.test.map(({ row }) => row),
    sets.test.slice(0, 5).map(({ row }) => row),
  );
});

test("no held-out problem is trained on, in whatever words, and all rows differ", () => {
  const trained = new Set(sets.train.map(({ key }) => key));
  assert.ok(sets.test.every(({ key }) => !trained.has(key)));
  assert.equal(new Set(sets.test.map(({ key }) => key)).size, 200);
  const rows = [...sets.train, ...sets.test].map(({ row }) => JSON.stringify(row));
  assert.equal(new Set(rows).size, 2200);
});

test("every row's own text gives its answer, every family is there in both languages", () => {
  for (const { row, answer } of [...sets.train, ...sets.test])
    assert.equal(finalAnswer(row.output), answer, row.output);
  for (const family of Object.keys(FAMILIES)) {
    const inputs = sets.train.filter(({ key }) => key.startsWith(`${family} `)).map(({ row }) => row.input);
    const chinese = inputs.filter((input) => /\p{Script=Han}/u.test(input)).length;
    assert.ok(chinese > 40 && inputs.length - chinese > 40, `${family}: ${chinese} of ${inputs.length} in Chinese`);
  }
});

test("steps are right, chain to the answer, and stay within what the model has learned", () => {
  for (const [name, family] of Object.entries(FAMILIES)) {
    const rng = new Rng(5);
    for (let i = 0; i < 200; i++) {
      const { steps, question } = family(rng, (story) => story(["Ann", "Bob"]));
      for (const { a, op, b, c } of steps) {
        const right = { "+": a + b, "-": a - b, "×": a * b, "÷": a / b }[op];
        assert.equal(c, right, `${name}: ${a}${op}${b}=${c}`);
        assert.ok(Number.isInteger(c) && c >= 0 && Math.max(a, b, c) <= 200, `${name}: ${a}${op}${b}=${c}`);
      }
      const last = steps.at(-1)!;
      assert.ok(
        steps.slice(0, -1).some(({ c }) => c === last.a || c === last.b),
        `${name}: the steps do not chain`,
      );
      assert.doesNotMatch(question.en + question.zh, /NaN|undefined|-\d/, name);
    }
  }
});

test("a mistake is never the answer, and its kind can be told from the number", () => {
  const rng = new Rng(6);
  const kinds = new Set<string>();
  for (let i = 0; i < 2000; i++) {
    const families = Object.values(FAMILIES);
    const { steps } = families[i % families.length]!(rng, (story) => story(["Ann", "Bob"]));
    const { kind, answer } = drawMistake(rng, steps);
    kinds.add(kind);
    assert.notEqual(answer, steps.at(-1)!.c);
    assert.ok(answer >= 0);
    if (kind !== "stopped") assert.notEqual(answer, steps.at(-2)!.c);
  }
  assert.deepEqual([...kinds].sort(), ["operation", "slip", "stopped"]);
});

test("the final answer is the named one, or else the last number", () => {
  assert.equal(finalAnswer("Step 1: 3×4=12\nAnswer: 12\nMistake: not 7."), 12);
  assert.equal(finalAnswer("第1步：3×4=12\n答案：12\n错因：不是7。"), 12);
  assert.equal(finalAnswer("Answer: 5\nAnswer: 6"), 6);
  assert.equal(finalAnswer("3×4+5=12+5=17. There are 17 books."), 17);
  assert.equal(finalAnswer("The classmate's Answer: 9 is wrong, it is 8"), 8);
  assert.equal(finalAnswer("I do not know."), null);
});
