// Word problems of the corpus, in English and Chinese: {question, answer}. Most take one step, a few take two; the answer
// is one equation and one sentence. The quickstart's task is of other families and asks for another form of answer.
import { between, difference, pick, product, quotient, sum } from "./arithmetic.mjs";
import { EN, ZH } from "./words.mjs";

const two = (rng, list) => {
  const first = rng.below(list.length);
  return [list[first], list[(first + 1 + rng.below(list.length - 1)) % list.length]];
};

/** Numbers of a problem with a first gain or loss and then another. */
function gainThenLose(rng) {
  const { a, b, c } = sum(rng);
  const lost = between(rng, 1, c - 1);
  return { a, b, lost, left: c - lost };
}

function groupsAndMore(rng) {
  const { a, b, c } = product(rng);
  const more = between(rng, 1, 40);
  return { a, b, more, all: c + more };
}

const ENGLISH = [
  (rng, { A, things }) => {
    const { a, b, c } = sum(rng);
    const get = pick(rng, ["gets", "buys", "finds", "picks", "makes"]);
    return [
      `${A} has ${a} ${things}. ${A} ${get} ${b} more. How many ${things} does ${A} have now?`,
      `${a}+${b}=${c}. ${A} has ${c} ${things} now.`,
    ];
  },
  (rng, { A, B, things }) => {
    const { a, b, c } = difference(rng);
    const lose = pick(rng, [`gives ${b} to ${B}`, `loses ${b}`, `uses ${b}`, `sells ${b}`]);
    return [
      `${A} has ${a} ${things} and ${lose}. How many ${things} are left?`,
      `${a}-${b}=${c}. ${c} ${things} are left.`,
    ];
  },
  (rng, { A, B, things }) => {
    const { a, b, c } = sum(rng);
    const all = pick(rng, ["altogether", "in all", "in total"]);
    return [
      `${A} has ${a} ${things} and ${B} has ${b}. How many ${things} do they have ${all}?`,
      `${a}+${b}=${c}. They have ${c} ${things} ${all}.`,
    ];
  },
  (rng, { A, B, things }) => {
    const { a, b, c } = difference(rng);
    return rng.below(2) === 0
      ? [
          `${A} has ${a} ${things} and ${B} has ${b}. How many more does ${A} have than ${B}?`,
          `${a}-${b}=${c}. ${A} has ${c} more.`,
        ]
      : [
          `${A} has ${b} ${things} and ${B} has ${a}. How many fewer does ${A} have than ${B}?`,
          `${a}-${b}=${c}. ${A} has ${c} fewer.`,
        ];
  },
  (rng, { A, B, things }) => {
    const { a, b, c } = sum(rng);
    return [
      `${A} has ${a} ${things}. ${B} has ${b} more than ${A}. How many does ${B} have?`,
      `${a}+${b}=${c}. ${B} has ${c} ${things}.`,
    ];
  },
  (rng, { A, B, things }) => {
    const { a, b, c } = difference(rng);
    return [
      `${A} has ${a} ${things}. ${B} has ${b} fewer than ${A}. How many does ${B} have?`,
      `${a}-${b}=${c}. ${B} has ${c} ${things}.`,
    ];
  },
  (rng, { things, container, containers }) => {
    const { a, b, c } = product(rng);
    return rng.below(2) === 0
      ? [
          `There are ${a} ${containers} with ${b} ${things} in each. How many ${things} are there?`,
          `${a}×${b}=${c}. There are ${c} ${things}.`,
        ]
      : [
          `Each ${container} has ${b} ${things}. How many ${things} are in ${a} ${containers}?`,
          `${a}×${b}=${c}. There are ${c} ${things}.`,
        ];
  },
  (rng, { things }) => {
    const { a, b, c } = quotient(rng);
    const who = pick(rng, ["children", "friends", "boys", "girls", "students"]);
    return [
      `${a} ${things} are shared equally by ${b} ${who}. How many does each get?`,
      `${a}÷${b}=${c}. Each gets ${c} ${things}.`,
    ];
  },
  (rng, { things, container, containers }) => {
    const { a, b, c } = quotient(rng);
    return [
      `${a} ${things} are put into ${containers}, ${b} in each ${container}. How many ${containers} are needed?`,
      `${a}÷${b}=${c}. ${c} ${containers} are needed.`,
    ];
  },
  (rng, { A, thing, things }) => {
    const { a, b, c } = product(rng);
    return [
      `One ${thing} costs ${a} dollars. How much do ${b} ${things} cost? ${A} wants to know.`,
      `${a}×${b}=${c}. They cost ${c} dollars.`,
    ];
  },
  (rng, { thing, things }) => {
    const { a, b, c } = quotient(rng);
    return [
      `${b} ${things} cost ${a} dollars. What is the price of one ${thing}?`,
      `${a}÷${b}=${c}. One ${thing} costs ${c} dollars.`,
    ];
  },
  (rng, { A, B, things }) => {
    const { a, b, c } = product(rng);
    return [
      `${A} has ${a} ${things}. ${B} has ${b} times as many. How many does ${B} have?`,
      `${a}×${b}=${c}. ${B} has ${c} ${things}.`,
    ];
  },
  (rng, { A }) => {
    const { a, b, c } = product(rng);
    return [
      `${A} reads ${a} pages a day. How many pages does ${A} read in ${b} days?`,
      `${a}×${b}=${c}. ${A} reads ${c} pages.`,
    ];
  },
  (rng) => {
    const { a, b, c } = product(rng);
    return [
      `A rectangle is ${a} cm long and ${b} cm wide. What is its area?`,
      `${a}×${b}=${c}. The area is ${c} square cm.`,
    ];
  },
  (rng, { place, things }) => {
    const { a, b, c } = difference(rng);
    return [
      `There were some ${things} in the ${place}. After ${b} more came, there were ${a}. How many were there at first?`,
      `${a}-${b}=${c}. There were ${c} ${things} at first.`,
    ];
  },
  (rng, { A, B, things }) => {
    const { a, b, lost, left } = gainThenLose(rng);
    return [
      `${A} has ${a} ${things}, gets ${b} more and gives ${lost} to ${B}. How many ${things} does ${A} have now?`,
      `${a}+${b}-${lost}=${a + b}-${lost}=${left}. ${A} has ${left} ${things}.`,
    ];
  },
  (rng, { things, containers }) => {
    const { a, b, more, all } = groupsAndMore(rng);
    return [
      `There are ${a} ${containers} of ${b} ${things} and ${more} more ${things}. How many ${things} are there in all?`,
      `${a}×${b}+${more}=${a * b}+${more}=${all}. There are ${all} ${things} in all.`,
    ];
  },
];

const CHINESE = [
  (rng, { A, m, noun }) => {
    const { a, b, c } = sum(rng);
    const get = pick(rng, ["又买了", "又得到", "又找到", "又拿来", "又做了"]);
    return [
      `${A}有${a}${m}${noun}，${get}${b}${m}。${A}现在有多少${m}${noun}？`,
      `${a}+${b}=${c}，${A}现在有${c}${m}${noun}。`,
    ];
  },
  (rng, { A, B, m, noun }) => {
    const { a, b, c } = difference(rng);
    const lose = pick(rng, [`送给${B}`, "用了", "卖出", "丢了", "拿走"]);
    return [`${A}有${a}${m}${noun}，${lose}${b}${m}，还剩多少${m}${noun}？`, `${a}-${b}=${c}，还剩${c}${m}${noun}。`];
  },
  (rng, { A, B, m, noun }) => {
    const { a, b, c } = sum(rng);
    const all = pick(rng, ["一共", "共", "合起来"]);
    return [
      `${A}有${a}${m}${noun}，${B}有${b}${m}。他们${all}有多少${m}${noun}？`,
      `${a}+${b}=${c}，${all}有${c}${m}${noun}。`,
    ];
  },
  (rng, { A, B, m, noun }) => {
    const { a, b, c } = difference(rng);
    return rng.below(2) === 0
      ? [`${A}有${a}${m}${noun}，${B}有${b}${m}。${A}比${B}多多少${m}？`, `${a}-${b}=${c}，${A}多${c}${m}。`]
      : [`${A}有${b}${m}${noun}，${B}有${a}${m}。${A}比${B}少多少${m}？`, `${a}-${b}=${c}，${A}少${c}${m}。`];
  },
  (rng, { A, B, m, noun }) => {
    const { a, b, c } = sum(rng);
    return [
      `${A}有${a}${m}${noun}，${B}比${A}多${b}${m}。${B}有多少${m}${noun}？`,
      `${a}+${b}=${c}，${B}有${c}${m}${noun}。`,
    ];
  },
  (rng, { A, B, m, noun }) => {
    const { a, b, c } = difference(rng);
    return [
      `${A}有${a}${m}${noun}，${B}比${A}少${b}${m}。${B}有多少${m}${noun}？`,
      `${a}-${b}=${c}，${B}有${c}${m}${noun}。`,
    ];
  },
  (rng, { m, noun, container }) => {
    const { a, b, c } = product(rng);
    return rng.below(2) === 0
      ? [
          `有${a}${container}${noun}，每${container}${b}${m}，一共有多少${m}${noun}？`,
          `${a}×${b}=${c}，一共有${c}${m}${noun}。`,
        ]
      : [`每${container}有${b}${m}${noun}，${a}${container}有多少${m}？`, `${a}×${b}=${c}，有${c}${m}${noun}。`];
  },
  (rng, { m, noun }) => {
    const { a, b, c } = quotient(rng);
    const who = pick(rng, ["个小朋友", "个同学", "个人", "个班", "个小组"]);
    return [`把${a}${m}${noun}平均分给${b}${who}，每${who}分到多少${m}？`, `${a}÷${b}=${c}，每${who}分到${c}${m}。`];
  },
  (rng, { m, noun, container }) => {
    const { a, b, c } = quotient(rng);
    return [
      `${a}${m}${noun}，每${container}装${b}${m}，可以装多少${container}？`,
      `${a}÷${b}=${c}，可以装${c}${container}。`,
    ];
  },
  (rng, { m, noun }) => {
    const { a, b, c } = product(rng);
    return [`一${m}${noun}${a}元，买${b}${m}要多少元？`, `${a}×${b}=${c}，要${c}元。`];
  },
  (rng, { m, noun }) => {
    const { a, b, c } = quotient(rng);
    return [`买${b}${m}${noun}用了${a}元，每${m}多少元？`, `${a}÷${b}=${c}，每${m}${c}元。`];
  },
  (rng, { A, B, m, noun }) => {
    const { a, b, c } = product(rng);
    return [
      `${A}有${a}${m}${noun}，${B}的${noun}是${A}的${b}倍。${B}有多少${m}${noun}？`,
      `${a}×${b}=${c}，${B}有${c}${m}${noun}。`,
    ];
  },
  (rng, { A }) => {
    const { a, b, c } = product(rng);
    return [`${A}每天看${a}页书，${b}天看多少页？`, `${a}×${b}=${c}，${A}看${c}页。`];
  },
  (rng) => {
    const { a, b, c } = product(rng);
    return [`长方形长${a}厘米，宽${b}厘米，面积是多少平方厘米？`, `${a}×${b}=${c}，面积是${c}平方厘米。`];
  },
  (rng, { place, m, noun }) => {
    const { a, b, c } = difference(rng);
    return [
      `${place}里有一些${noun}，又来了${b}${m}，现在有${a}${m}。原来有多少${m}？`,
      `${a}-${b}=${c}，原来有${c}${m}${noun}。`,
    ];
  },
  (rng, { A, B, m, noun }) => {
    const { a, b, lost, left } = gainThenLose(rng);
    return [
      `${A}有${a}${m}${noun}，又买了${b}${m}，送给${B}${lost}${m}。${A}现在有多少${m}${noun}？`,
      `${a}+${b}-${lost}=${a + b}-${lost}=${left}，${A}现在有${left}${m}${noun}。`,
    ];
  },
  (rng, { m, noun, container }) => {
    const { a, b, more, all } = groupsAndMore(rng);
    return [
      `有${a}${container}${noun}，每${container}${b}${m}，外面还有${more}${m}，一共有多少${m}${noun}？`,
      `${a}×${b}+${more}=${a * b}+${more}=${all}，一共有${all}${m}${noun}。`,
    ];
  },
];

/** One problem, in either language. */
export function problem(rng) {
  if (rng.below(2) === 0) {
    const [A, B] = two(rng, EN.names);
    const [thing, things] = pick(rng, EN.things);
    const [container, containers] = pick(rng, EN.containers);
    const words = { A, B, thing, things, container, containers, place: pick(rng, EN.places) };
    const [question, answer] = pick(rng, ENGLISH)(rng, words);
    return { question, answer };
  }
  const [A, B] = two(rng, ZH.names);
  const [m, noun] = pick(rng, ZH.things);
  const words = { A, B, m, noun, container: pick(rng, ZH.containers), place: pick(rng, ZH.places) };
  const [question, answer] = pick(rng, CHINESE)(rng, words);
  return { question, answer };
}
