// Facts of arithmetic within reach of primary school, each {a, op, b, c} with a op b = c.

/** Uniform over from … to. */
export const between = (rng, from, to) => from + rng.below(to - from + 1);
export const pick = (rng, list) => list[rng.below(list.length)];

/** Sums of two numbers below 100; one in four of them small. */
export function sum(rng) {
  const top = rng.below(4) === 0 ? 20 : 99;
  const [a, b] = [between(rng, 1, top), between(rng, 1, top)];
  return { a, op: "+", b, c: a + b };
}

export function difference(rng) {
  const { a, b, c } = sum(rng);
  return { a: c, op: "-", b, c: a };
}

/** Products of a digit with a number to 20; three in five within the 9 × 9 table. */
export function product(rng) {
  const digit = between(rng, 2, 9);
  const other = rng.below(5) < 3 ? between(rng, 2, 9) : between(rng, 10, 20);
  const [a, b] = rng.below(2) === 0 ? [digit, other] : [other, digit];
  return { a, op: "×", b, c: a * b };
}

export function quotient(rng) {
  const { a, b, c } = product(rng);
  return { a: c, op: "÷", b, c: a };
}

export const fact = (rng) => pick(rng, [sum, difference, product, quotient])(rng);
export const equation = ({ a, op, b, c }) => `${a}${op}${b}=${c}`;

/** A first product or quotient, then a sum or difference with its result: "3×4+5=" and "12+5=17". */
function twoSteps(rng) {
  const first = rng.below(3) === 0 ? quotient(rng) : product(rng);
  const add = rng.below(2) === 0 || first.c < 2;
  const b = add ? between(rng, 1, 60) : between(rng, 1, first.c - 1);
  const sign = add ? "+" : "-";
  return [`${first.a}${first.op}${first.b}${sign}${b}=`, `${first.c}${sign}${b}=${add ? first.c + b : first.c - b}`];
}

/** A fact and the one that undoes it. */
function inverse(rng) {
  const { a, op, b, c } = rng.below(2) === 0 ? sum(rng) : product(rng);
  return [`${a}${op}${b}=`, `${c}, ${c}${op === "+" ? "-" : "÷"}${b}=${a}`];
}

function comparison(rng) {
  const [a, b] = [between(rng, 1, 200), between(rng, 1, 200)];
  return [`${a}, ${b}: `, a > b ? `${a}>${b}` : a < b ? `${b}>${a}` : `${a}=${b}`];
}

function plain(rng) {
  const f = fact(rng);
  return [`${f.a}${f.op}${f.b}=`, `${f.c}`];
}

/**
 * One document of drills, as pieces: what is given and what follows from it, in turn. Facts, pairs of inverse facts, two
 * steps, comparisons, a table, or counting in steps.
 */
export function drill(rng) {
  const lines = (count, line) =>
    Array.from({ length: count }, () => line(rng)).flatMap(([given, rest]) => [given, `${rest}\n`]);
  switch (rng.below(12)) {
    case 0: {
      const n = between(rng, 2, 20);
      const table = Array.from({ length: 8 }, (_, i) => equation({ a: n, op: "×", b: i + 2, c: n * (i + 2) }));
      return [`${n}×2=`, `${table.join("\n").slice(`${n}×2=`.length)}\n`];
    }
    case 1: {
      const [step, start] = [between(rng, 2, 20), rng.below(2) * between(rng, 1, 40)];
      const numbers = Array.from({ length: 10 }, (_, i) => start + step * i);
      return [`${numbers.slice(0, 2).join(", ")}`, `, ${numbers.slice(2).join(", ")}\n`];
    }
    case 2:
      return lines(8, comparison);
    case 3:
    case 4:
      return lines(6, inverse);
    case 5:
    case 6:
      return lines(6, twoSteps);
    default:
      return lines(14, plain);
  }
}
