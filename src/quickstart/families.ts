import type { Rng } from "../util/rng.ts";

/** One line of the solution: a op b = c, and what it computes. */
export interface Step {
  readonly label: Bilingual;
  readonly a: number;
  readonly op: Operator;
  readonly b: number;
  readonly c: number;
}
export type Operator = "+" | "-" | "×" | "÷";

export interface Bilingual {
  readonly en: string;
  readonly zh: string;
}

/** A problem with its solution, before it is put into words of one language. */
export interface Story {
  readonly question: Bilingual;
  readonly steps: readonly Step[];
}

/** Two people's names in a language, for a question. */
export type Tell = (story: (names: readonly [string, string]) => Bilingual) => Bilingual;

/** A kind of problem: draws its numbers and tells the story. */
export type Family = (rng: Rng, tell: Tell) => Story;

const between = (rng: Rng, from: number, to: number): number => from + rng.below(to - from + 1);

/** A digit and a number to 20, in this order. */
const factors = (rng: Rng): [number, number] => [between(rng, 2, 9), between(rng, 2, rng.below(2) === 0 ? 9 : 20)];

function step(en: string, zh: string, a: number, op: Operator, b: number): Step {
  const c = { "+": a + b, "-": a - b, "×": a * b, "÷": a / b }[op];
  return { label: { en, zh }, a, op, b, c };
}

/** What is left of a number after a product is taken off: a×b, then whole − a×b. */
function wholeAbove(rng: Rng, product: number): number {
  return product + between(rng, 1, Math.max(1, Math.min(60, 190 - product)));
}

/** Primary-school problems of two or three steps. None of them is in what the embedded model was pre-trained on. */
export const FAMILIES: Readonly<Record<string, Family>> = {
  change(rng, tell) {
    let [count, price] = factors(rng);
    while (count * price >= 100) [count, price] = factors(rng);
    const cost = step("cost", "总价", count, "×", price);
    const paid = [20, 50, 100].find((note) => note > cost.c)!;
    const question = tell(([A]) => ({
      en: `A notebook costs ${price} dollars. ${A} buys ${count} notebooks and pays ${paid} dollars. How much change does ${A} get?`,
      zh: `每本笔记本${price}元，${A}买了${count}本，付了${paid}元，应找回多少元？`,
    }));
    return { question, steps: [cost, step("change", "找回", paid, "-", cost.c)] };
  },

  pagesLeft(rng, tell) {
    const [days, pages] = factors(rng);
    const read = step("read", "已看", days, "×", pages);
    const all = wholeAbove(rng, read.c);
    const question = tell(([A]) => ({
      en: `A story book has ${all} pages. ${A} reads ${pages} pages a day for ${days} days. How many pages are left?`,
      zh: `一本故事书有${all}页，${A}每天看${pages}页，看了${days}天，还剩多少页没看？`,
    }));
    return { question, steps: [read, step("left", "还剩", all, "-", read.c)] };
  },

  savings(rng, tell) {
    const [weeks, money] = factors(rng);
    const saved = step("saved", "已存", weeks, "×", money);
    const price = wholeAbove(rng, saved.c);
    const question = tell(([A]) => ({
      en: `A kite costs ${price} dollars. ${A} saves ${money} dollars a week. After ${weeks} weeks, how many dollars are still missing?`,
      zh: `一个书包${price}元，${A}每星期存${money}元，存了${weeks}个星期，还差多少元？`,
    }));
    return { question, steps: [saved, step("missing", "还差", price, "-", saved.c)] };
  },

  pickTogether(rng, tell) {
    const [bags, each] = factors(rng);
    const first = between(rng, 1, bags * each - 1);
    const all = step("together", "一共", first, "+", bags * each - first);
    const question = tell(([A, B]) => ({
      en: `${A} picks ${first} pears and ${B} picks ${all.b} pears. They put all of them equally into ${bags} bags. How many pears are in each bag?`,
      zh: `${A}摘了${first}个梨，${B}摘了${all.b}个梨，他们把梨平均装进${bags}个袋子，每袋有多少个？`,
    }));
    return { question, steps: [all, step("each bag", "每袋", all.c, "÷", bags)] };
  },

  bus(rng, tell) {
    const [off, stay, on] = [between(rng, 1, 40), between(rng, 1, 50), between(rng, 1, 40)];
    const left = step("stay", "留下", off + stay, "-", off);
    const question = tell(() => ({
      en: `There are ${left.a} people on a bus. At the stop ${off} people get off and ${on} people get on. How many people are on the bus now?`,
      zh: `车上有${left.a}人，到站后下去${off}人，又上来${on}人，现在车上有多少人？`,
    }));
    return { question, steps: [left, step("now", "现在", left.c, "+", on)] };
  },

  perimeter(rng, tell) {
    const length = between(rng, 3, 16);
    const width = between(rng, 1, Math.min(length - 1, 20 - length));
    const half = step("long and wide", "长加宽", length, "+", width);
    const question = tell(() => ({
      en: `A garden is ${length} metres long and ${width} metres wide. How long is the fence around it?`,
      zh: `花园长${length}米，宽${width}米，围着花园走一圈是多少米？`,
    }));
    return { question, steps: [half, step("around", "一圈", half.c, "×", 2)] };
  },

  packing(rng, tell) {
    for (;;) {
      const [hours, speed] = factors(rng);
      const made = step("made", "做了", hours, "×", speed);
      const size = between(rng, 2, 9);
      if (made.c % size !== 0 || made.c / size > 20 || made.c / size < 2 || size === hours) continue;
      const question = tell(() => ({
        en: `A factory makes ${speed} toys an hour. After ${hours} hours all toys are packed, ${size} in each box. How many boxes are there?`,
        zh: `工厂每小时做${speed}个玩具，做了${hours}小时，每盒装${size}个，可以装多少盒？`,
      }));
      return { question, steps: [made, step("boxes", "盒数", made.c, "÷", size)] };
    }
  },

  ages(rng, tell) {
    const [times, age] = [between(rng, 2, 9), between(rng, 2, 12)];
    const old = step("grandmother", "奶奶", age, "×", times);
    const question = tell(([A]) => ({
      en: `${A} is ${age} years old. Grandmother is ${times} times as old. How old are they together?`,
      zh: `${A}今年${age}岁，奶奶的年龄是${A}的${times}倍，两人一共多少岁？`,
    }));
    return { question, steps: [old, step("together", "一共", old.c, "+", age)] };
  },

  restInBags(rng, tell) {
    const [size, bags] = factors(rng);
    const sold = between(rng, 1, Math.min(90, 190 - size * bags));
    const rest = step("rest", "剩下", size * bags + sold, "-", sold);
    const question = tell(() => ({
      en: `A farm has ${rest.a} oranges. ${sold} are sold, and the rest are put into bags of ${size}. How many bags are there?`,
      zh: `果园有${rest.a}个橘子，卖出${sold}个，剩下的每${size}个装一袋，可以装多少袋？`,
    }));
    return { question, steps: [rest, step("bags", "袋数", rest.c, "÷", size)] };
  },

  moreTogether(rng, tell) {
    const [first, more] = [between(rng, 5, 60), between(rng, 2, 38)];
    const second = step("the other", "另一人", first, "+", more);
    const question = tell(([A, B]) => ({
      en: `${A} plants ${first} trees. ${B} plants ${more} trees more than ${A}. How many trees do they plant together?`,
      zh: `${A}种了${first}棵树，${B}比${A}多种${more}棵，两人一共种了多少棵树？`,
    }));
    return { question, steps: [second, step("together", "一共", second.c, "+", first)] };
  },

  fewerTogether(rng, tell) {
    const [fewer, other] = [between(rng, 2, 40), between(rng, 2, 50)];
    const second = step("the other", "另一人", fewer + other, "-", fewer);
    const question = tell(([A, B]) => ({
      en: `${A} jumps ${second.a} times. ${B} jumps ${fewer} times fewer than ${A}. How many times do they jump together?`,
      zh: `${A}跳绳${second.a}下，${B}比${A}少跳${fewer}下，两人一共跳了多少下？`,
    }));
    return { question, steps: [second, step("together", "一共", second.c, "+", second.a)] };
  },

  twoPrices(rng, tell) {
    const draw = (): [number, number] => [between(rng, 2, 9), between(rng, 2, 9)];
    const [[n1, p1], [n2, p2]] = [draw(), draw()];
    const [pens, rulers] = [step("pens", "钢笔", n1, "×", p1), step("rulers", "尺子", n2, "×", p2)];
    const question = tell(([A]) => ({
      en: `A pen costs ${p1} dollars and a ruler costs ${p2} dollars. ${A} buys ${n1} pens and ${n2} rulers. How much does ${A} pay?`,
      zh: `每支钢笔${p1}元，每把尺子${p2}元，${A}买了${n1}支钢笔和${n2}把尺子，一共要多少元？`,
    }));
    return { question, steps: [pens, rulers, step("together", "一共", pens.c, "+", rulers.c)] };
  },

  dearer(rng, tell) {
    const [count, price] = factors(rng);
    const one = step("one cup", "一个杯子", count * price, "÷", count);
    const other = between(rng, 1, price - 1);
    const question = tell(() => ({
      en: `${count} cups cost ${one.a} dollars. A plate costs ${other} dollars. How many dollars more does one cup cost than a plate?`,
      zh: `${count}个杯子${one.a}元，一个盘子${other}元，一个杯子比一个盘子贵多少元？`,
    }));
    return { question, steps: [one, step("more", "贵", price, "-", other)] };
  },

  twoWorkers(rng, tell) {
    const [hours, sum] = [between(rng, 2, 9), between(rng, 4, 20)];
    const first = between(rng, 1, sum - 1);
    const both = step("an hour", "每小时", first, "+", sum - first);
    const question = tell(([A, B]) => ({
      en: `${A} makes ${first} cakes an hour and ${B} makes ${both.b} cakes an hour. How many cakes do they make in ${hours} hours?`,
      zh: `${A}每小时做${first}块蛋糕，${B}每小时做${both.b}块，他们${hours}小时一共做多少块？`,
    }));
    return { question, steps: [both, step("together", "一共", both.c, "×", hours)] };
  },
};
