import { Rng } from "../util/rng.ts";
import { type Bilingual, FAMILIES, type Step } from "./families.ts";
import { drawMistake } from "./mistakes.ts";

/** A training row in Alpaca's shape. */
export interface ProblemRow extends Record<string, unknown> {
  readonly instruction: string;
  readonly input: string;
  readonly output: string;
}

/** A row, with what is needed to check an answer to it. */
export interface Problem {
  readonly row: ProblemRow;
  /** The right answer. */
  readonly answer: number;
  /** Family and numbers: the same whatever the language and the names. */
  readonly key: string;
}

export interface ProblemSets {
  readonly train: Problem[];
  readonly test: Problem[];
}

type Language = keyof Bilingual;

const NAMES: Readonly<Record<Language, readonly string[]>> = {
  en: "Tom Amy Ben Lily Jack Emma Leo Mia Sam Ella Max Zoe Dan Ivy Luke Anna".split(" "),
  zh: "小明 小红 小华 小丽 小刚 小芳 小军 小强 小美 小东 小林 小云 小文 小亮".split(" "),
};
const INSTRUCTION: Bilingual = {
  en: "Solve the problem in steps, give the answer, and explain the classmate's mistake.",
  zh: "分步解答应用题，写出答案，并分析同学的错误。",
};

/**
 * Training rows and held-out problems, the same for the same seed. No problem of the test set, that is no family with the
 * same numbers, is in the training set in either language; no two rows are equal.
 */
export function generateProblems({ train, test, seed }: { train: number; test: number; seed: number }): ProblemSets {
  const rng = new Rng(seed);
  const seen = new Set<string>();
  const draw = (count: number, fresh: (problem: Problem) => boolean): Problem[] => {
    const problems: Problem[] = [];
    while (problems.length < count) {
      const problem = drawProblem(rng);
      const name = JSON.stringify(problem.row);
      if (seen.has(name) || !fresh(problem)) continue;
      seen.add(name);
      problems.push(problem);
    }
    return problems;
  };
  const held = new Set<string>();
  // One problem a key: two hundred problems are then two hundred different ones.
  const tests = draw(test, ({ key }) => !held.has(key) && held.add(key) !== undefined);
  return { train: draw(train, ({ key }) => !held.has(key)), test: tests };
}

function drawProblem(rng: Rng): Problem {
  const language: Language = rng.below(2) === 0 ? "en" : "zh";
  const families = Object.keys(FAMILIES);
  const family = families[rng.below(families.length)]!;
  const story = FAMILIES[family]!(rng, (words) => words(twoNames(rng, NAMES[language])));
  const { steps } = story;
  const mistake = drawMistake(rng, steps);
  const question = story.question[language];
  const numbers = steps.map(({ a, op, b }) => `${a}${op}${b}`).join(",");
  const answer = steps.at(-1)!.c;
  const row =
    language === "en"
      ? {
          instruction: INSTRUCTION.en,
          input: `${question}\nClassmate's answer: ${mistake.answer}`,
          output: `${lines(steps, (n, { label }) => `Step ${n}, ${label.en}: `)}\nAnswer: ${answer}\nMistake: ${mistake.analysis.en}`,
        }
      : {
          instruction: INSTRUCTION.zh,
          input: `${question}\n同学的答案：${mistake.answer}`,
          output: `${lines(steps, (n, { label }) => `第${n}步，${label.zh}：`)}\n答案：${answer}\n错因：${mistake.analysis.zh}`,
        };
  return { row, answer, key: `${family} ${numbers}` };
}

function lines(steps: readonly Step[], head: (number: number, step: Step) => string): string {
  return steps.map((step, i) => `${head(i + 1, step)}${step.a}${step.op}${step.b}=${step.c}`).join("\n");
}

function twoNames(rng: Rng, names: readonly string[]): [string, string] {
  const first = rng.below(names.length);
  const second = (first + 1 + rng.below(names.length - 1)) % names.length;
  return [names[first]!, names[second]!];
}
