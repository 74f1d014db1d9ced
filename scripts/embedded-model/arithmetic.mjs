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

/** A first product or quotient, then a sum or difference with its result: "3×4+5=12+5=17". */
export function twoSteps(rng) {
  const first = rng.below(3) === 0 ? quotient(rng) : product(rng);
  const add = rng.below(2) === 0 || first.c < 2;
  const b = add ? between(rng, 1, 60) : between(rng, 1, first.c - 1);
  const c = add ? first.c + b : first.c - b;
  return `${first.a}${first.op}${first.b}${add ? "+" : "-"}${b}=${first.c}${add ? "+" : "-"}${b}=${c}`;
}

/** One document of drills: mixed facts, a table, counting in steps, pairs of inverse facts, or comparisons. */
export function drill(rng) {
  const lines = (count, line) => Array.from({ length: count }, line).join(pick(rng, ["\n", "\n", "; "]));
  switch (rng.below(10)) {
    case 0: {
      const n = between(rng, 2, 20);
      return lines(9, (_, i) => equation({ a: n, op: "×", b: i + 1, c: n * (i + 1) }));
    }
    case 1: {
      const [step, start] = [between(rng, 2, 20), rng.below(2) * between(rng, 1, 40)];
      return Array.from({ length: 10 }, (_, i) => start + step * (i + 1)).join(", ");
    }
    case 2:
      return lines(5, () => {
        const { a, op, b, c } = rng.below(2) === 0 ? sum(rng) : product(rng);
        const inverse = op === "+" ? "-" : "÷";
        return `${a}${op}${b}=${c}, ${c}${inverse}${b}=${a}`;
      });
    case 3:
      return lines(10, () => {
        const [a, b] = [between(rng, 1, 200), between(rng, 1, 200)];
        return `${a}${a < b ? "<" : a > b ? ">" : "="}${b}`;
      });
    case 4:
      return lines(6, () => twoSteps(rng));
    default:
      return lines(12, () => equation(fact(rng)));
  }
}
