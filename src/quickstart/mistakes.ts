import type { Rng } from "../util/rng.ts";
import type { Bilingual, Operator, Step } from "./families.ts";

/** A classmate's wrong answer, and what went wrong. */
export interface Mistake {
  readonly kind: "stopped" | "operation" | "slip";
  readonly answer: number;
  readonly analysis: Bilingual;
}

const CONFUSED: Readonly<Record<Operator, Operator>> = { "+": "-", "-": "+", "×": "+", "÷": "-" };
const NAMES: Readonly<Record<Operator, Bilingual>> = {
  "+": { en: "add", zh: "加法" },
  "-": { en: "subtract", zh: "减法" },
  "×": { en: "multiply", zh: "乘法" },
  "÷": { en: "divide", zh: "除法" },
};

/**
 * A wrong answer to a problem with these steps: the classmate stopped before the last step, used another operation in
 * it, or slipped in computing it. The kinds can be told apart by the number.
 */
export function drawMistake(rng: Rng, steps: readonly Step[]): Mistake {
  const last = steps.at(-1)!;
  const candidates = [stopped(steps), operation(steps), slip(rng, steps)];
  for (;;) {
    const mistake = candidates[rng.below(candidates.length)]!;
    const others = candidates.filter(({ kind }) => kind !== mistake.kind).map(({ answer }) => answer);
    const valid = mistake.answer >= 0 && mistake.answer !== last.c && !others.includes(mistake.answer);
    if (valid) return mistake;
    candidates[2] = slip(rng, steps);
  }
}

function stopped(steps: readonly Step[]): Mistake {
  const before = steps.at(-2)!;
  const number = steps.length - 1;
  const analysis = {
    en: `stopped after step ${number}, and ${before.c} is not the last result.`,
    zh: `只做到第${number}步，${before.c}不是最后结果。`,
  };
  return { kind: "stopped", answer: before.c, analysis };
}

function operation(steps: readonly Step[]): Mistake {
  const { a, op, b } = steps.at(-1)!;
  const wrong = CONFUSED[op];
  // Taken from the larger one, as a child would.
  const [left, right] = wrong === "-" && a < b ? [b, a] : [a, b];
  const answer = wrong === "+" ? left + right : left - right;
  const analysis = {
    en: `step ${steps.length} should ${NAMES[op].en}, not ${NAMES[wrong].en}: ${left}${wrong}${right}=${answer}.`,
    zh: `第${steps.length}步应该用${NAMES[op].zh}，却用了${NAMES[wrong].zh}：${left}${wrong}${right}=${answer}。`,
  };
  return { kind: "operation", answer, analysis };
}

const SLIPS = [-10, -2, -1, 1, 2, 10];

function slip(rng: Rng, steps: readonly Step[]): Mistake {
  const { a, op, b, c } = steps.at(-1)!;
  const answer = c + SLIPS[rng.below(SLIPS.length)]!;
  const analysis = {
    en: `step ${steps.length} is wrong, ${a}${op}${b}=${c}, not ${answer}.`,
    zh: `第${steps.length}步计算错误，${a}${op}${b}=${c}，不是${answer}。`,
  };
  return { kind: "slip", answer, analysis };
}
