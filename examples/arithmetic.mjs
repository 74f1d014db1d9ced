// The problems of grpo.mjs and ppo.mjs: a product and a sum or difference, "7×8+5=?".

/** Numbers in [0, below), the same for the same seed (mulberry32). */
function random(seed) {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

/** So many problems, none of them in `seen`: prompt, answer, and messages with a solution in two steps. */
export function problems(count, seed, seen) {
  const draw = random(seed);
  const rows = [];
  while (rows.length < count) {
    const [a, b] = [2 + draw(8), 2 + draw(8)];
    const plus = draw(2) === 0;
    const c = plus ? 1 + draw(60) : 1 + draw(a * b - 1);
    const expression = `${a}×${b}${plus ? "+" : "-"}${c}`;
    if (seen.has(expression)) continue;
    seen.add(expression);
    const answer = plus ? a * b + c : a * b - c;
    const prompt = [{ role: "user", content: `${expression}=?` }];
    const solution = `${a}×${b}=${a * b}\n${a * b}${plus ? "+" : "-"}${c}=${answer}`;
    rows.push({ prompt, answer, messages: [...prompt, { role: "assistant", content: solution }] });
  }
  return rows;
}

/** The last number of a text; NaN where there is none. */
export const finalNumber = (text) => Number(text.match(/-?\d+(?!.*\d)/s)?.[0] ?? Number.NaN);
