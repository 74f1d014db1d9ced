// Short conversations: questions about numbers asked in words, and small talk. Each is a list of messages.
import { between, difference, equation, fact, pick, product, quotient, sum } from "./arithmetic.mjs";
import { EN, ZH } from "./words.mjs";

const turn = (user, assistant) => [
  { role: "user", content: user },
  { role: "assistant", content: assistant },
];

const IN_WORDS = { "+": ["plus", "加"], "-": ["minus", "减"], "×": ["times", "乘"], "÷": ["divided by", "除以"] };

/** A question about one fact, in words or symbols. */
const QUESTIONS = [
  (rng) => {
    const f = fact(rng);
    const ask = pick(rng, ["What is ", "Calculate ", "How much is ", "Work out ", "计算：", "算一算：", "请计算"]);
    return turn(`${ask}${f.a}${f.op}${f.b}${/[A-Z]/.test(ask) ? pick(rng, ["?", ""]) : ""}`, equation(f));
  },
  (rng) => {
    const f = fact(rng);
    return turn(`${f.a}${f.op}${f.b}=${pick(rng, ["", "?", "？"])}`, pick(rng, [equation(f), `${f.c}`]));
  },
  (rng) => {
    const f = fact(rng);
    return turn(`What is ${f.a} ${IN_WORDS[f.op][0]} ${f.b}?`, `${equation(f)}. The answer is ${f.c}.`);
  },
  (rng) => {
    const f = fact(rng);
    return turn(`${f.a}${IN_WORDS[f.op][1]}${f.b}等于多少？`, `${equation(f)}，答案是${f.c}。`);
  },
  (rng) => {
    const f = fact(rng);
    const said = rng.below(2) === 0 ? f.c : Math.max(0, f.c + pick(rng, [-10, -1, 1, 2, 10]));
    const right = said === f.c;
    return rng.below(2) === 0
      ? turn(
          `Is ${f.a}${f.op}${f.b}=${said} right?`,
          right ? `Yes, ${equation(f)}.` : `No, it is wrong: ${equation(f)}, not ${said}.`,
        )
      : turn(
          `${f.a}${f.op}${f.b}=${said}，对吗？`,
          right ? `对，${equation(f)}。` : `不对，${equation(f)}，不是${said}。`,
        );
  },
  (rng) => {
    const [a, b] = [between(rng, 1, 199), between(rng, 1, 199)];
    const [big, small] = a > b ? [a, b] : [b, a];
    if (a === b) return turn(`${a}和${b}哪个大？`, "一样大。");
    return rng.below(2) === 0
      ? turn(`Which is bigger, ${a} or ${b}?`, `${big} is bigger than ${small}, by ${big}-${small}=${big - small}.`)
      : turn(`${a}和${b}哪个大？`, `${big}比${small}大，大${big}-${small}=${big - small}。`);
  },
  (rng) => {
    const { a, b, c } = sum(rng);
    return rng.below(2) === 0
      ? turn(`What number plus ${b} is ${c}?`, `${c}-${b}=${a}. The number is ${a}.`)
      : turn(`一个数加${b}等于${c}，这个数是多少？`, `${c}-${b}=${a}，这个数是${a}。`);
  },
  (rng) => {
    const { a, b, c } = product(rng);
    return rng.below(2) === 0
      ? turn(`What number times ${b} is ${c}?`, `${c}÷${b}=${a}. The number is ${a}.`)
      : turn(`一个数乘${b}等于${c}，这个数是多少？`, `${c}÷${b}=${a}，这个数是${a}。`);
  },
  (rng) => {
    const { a, b, c } = quotient(rng);
    return rng.below(2) === 0
      ? turn(`How many times does ${b} go into ${a}?`, `${a}÷${b}=${c}. ${c} times.`)
      : turn(`${a}里面有几个${b}？`, `${a}÷${b}=${c}，有${c}个。`);
  },
  (rng) => {
    const { a, b, c } = difference(rng);
    return rng.below(2) === 0
      ? turn(`How much is ${a} more than ${b}?`, `${a}-${b}=${c}. It is ${c} more.`)
      : turn(`${a}比${b}多多少？`, `${a}-${b}=${c}，多${c}。`);
  },
  (rng) => {
    const [start, step] = [between(rng, 0, 30), between(rng, 2, 12)];
    const list = Array.from({ length: 6 }, (_, i) => start + i * step);
    return rng.below(2) === 0
      ? turn(`Count in steps of ${step} from ${start}.`, `${list.join(", ")}.`)
      : turn(`从${start}开始，每次加${step}，数六个数。`, `${list.join("、")}。`);
  },
];

const TALK_EN = [
  ["Hello!", "Hello! How can I help you?"],
  ["Hi, who are you?", "I am a small model that likes arithmetic."],
  ["Good morning.", "Good morning! Shall we do some sums?"],
  ["How are you?", "I am fine, thank you. And you?"],
  ["Thank you.", "You are welcome."],
  ["Goodbye!", "Goodbye! See you next time."],
  ["What can you do?", "I can add, subtract, multiply and divide small numbers, and solve easy problems."],
  ["How many days are in a week?", "There are 7 days in a week."],
  ["How many months are in a year?", "There are 12 months in a year."],
  ["How many minutes are in an hour?", "There are 60 minutes in an hour."],
  ["How many hours are in a day?", "There are 24 hours in a day."],
  ["How many seconds are in a minute?", "There are 60 seconds in a minute."],
  ["How many centimetres are in a metre?", "There are 100 centimetres in a metre."],
  ["What day comes after Monday?", "Tuesday comes after Monday."],
  ["What day comes before Sunday?", "Saturday comes before Sunday."],
  ["What is the opposite of big?", "The opposite of big is small."],
  ["What is the opposite of left?", "The opposite of left is right."],
  ["What does altogether mean?", "Altogether means all of them added up."],
  ["What is a sum?", "A sum is the result of adding numbers."],
  ["What is a product?", "A product is the result of multiplying numbers."],
  ["What does each mean?", "Each means every single one of them."],
  ["How do I solve a problem?", "Read it carefully, find the numbers, choose the operation, and work step by step."],
  ["What is the first step?", "The first step is to read the question. The last step is to check the answer."],
  ["I made a mistake.", "A mistake is fine. Let us see where the answer went wrong and correct it."],
  ["Why is my answer wrong?", "Show me the steps, and I explain the mistake."],
  ["What did the classmate do?", "The classmate added when she should have subtracted."],
  ["How many sides does a square have?", "A square has 4 equal sides."],
  ["How many legs do two dogs have?", "2×4=8. Two dogs have 8 legs."],
  ["What time is it?", "I have no clock, sorry."],
  ["Do you speak Chinese?", "Yes, I speak a little Chinese: 你好！"],
];

const TALK_ZH = [
  ["你好！", "你好！我能帮你做什么？"],
  ["你是谁？", "我是一个喜欢算术的小模型。"],
  ["早上好。", "早上好！我们来做几道题吧。"],
  ["你好吗？", "我很好，谢谢你。你呢？"],
  ["谢谢你。", "不客气。"],
  ["再见！", "再见！下次见。"],
  ["你会做什么？", "我会算加法、减法、乘法和除法，也会解简单的应用题。"],
  ["一个星期有几天？", "一个星期有7天。"],
  ["一年有几个月？", "一年有12个月。"],
  ["一小时有多少分钟？", "一小时有60分钟。"],
  ["一天有多少小时？", "一天有24小时。"],
  ["一分钟有多少秒？", "一分钟有60秒。"],
  ["一米等于多少厘米？", "一米等于100厘米。"],
  ["一元等于几角？", "一元等于10角。"],
  ["星期一后面是星期几？", "星期一后面是星期二。"],
  ["大的反义词是什么？", "大的反义词是小。"],
  ["左的反义词是什么？", "左的反义词是右。"],
  ["一共是什么意思？", "一共就是全部加起来。"],
  ["什么是和？", "两个数相加的结果叫做和。"],
  ["什么是积？", "两个数相乘的结果叫做积。"],
  ["平均分是什么意思？", "平均分就是每份同样多。"],
  ["怎样解应用题？", "先读题，找到数，再想用什么方法，最后分步计算。"],
  ["第一步做什么？", "第一步读题，第二步列式，第三步计算，最后检查答案。"],
  ["我做错了。", "没关系，我们一起分析错在哪里，再改正。"],
  ["为什么我的答案错误？", "请写出步骤，我来分析原因。"],
  ["同学是怎样做错的？", "同学应该用减法，却用了加法。"],
  ["正方形有几条边？", "正方形有4条边，每条边一样长。"],
  ["两只狗有几条腿？", "2×4=8，两只狗有8条腿。"],
  ["现在几点了？", "对不起，我没有钟。"],
  ["你会说英语吗？", "会一点：Hello!"],
];

const NAMES = [
  (rng) => {
    const name = pick(rng, EN.names);
    return turn(`My name is ${name}.`, `Nice to meet you, ${name}.`);
  },
  (rng) => {
    const name = pick(rng, ZH.names);
    return turn(`我叫${name}。`, `你好，${name}，很高兴认识你。`);
  },
];

/** One question about numbers. */
export const question = (rng) => pick(rng, QUESTIONS)(rng);

/** One to three turns of small talk and questions. */
export function dialogue(rng) {
  const one = () => {
    switch (rng.below(6)) {
      case 0:
        return pick(rng, NAMES)(rng);
      case 1:
        return question(rng);
      default:
        return turn(...pick(rng, rng.below(2) === 0 ? TALK_EN : TALK_ZH));
    }
  };
  return Array.from({ length: between(rng, 1, 3) }, one).flat();
}
