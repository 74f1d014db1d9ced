// The pre-training corpus: seeded rows, either {pieces}, a document of drills whose pieces are given and to be found in
// turn, or {messages}, a conversation.
import { Rng } from "../../dist/util/rng.js";
import { drill } from "./arithmetic.mjs";
import { dialogue, question } from "./dialogues.mjs";
import { problem } from "./problems.mjs";

/** Of a hundred rows: drills, questions about one fact, word problems; the rest is dialogues. */
const SHARES = { drills: 26, questions: 22, problems: 40 };

/** `count` rows; the same for the same seed. */
export function* corpus(count, seed) {
  const rng = new Rng(seed);
  for (let i = 0; i < count; i++) yield row(rng);
}

function row(rng) {
  let draw = rng.below(100);
  if (draw < SHARES.drills) return { pieces: drill(rng) };
  draw -= SHARES.drills;
  if (draw < SHARES.questions) return { messages: question(rng) };
  draw -= SHARES.questions;
  if (draw >= SHARES.problems) return { messages: dialogue(rng) };
  const { question: content, answer } = problem(rng);
  return {
    messages: [
      { role: "user", content },
      { role: "assistant", content: answer },
    ],
  };
}

/** A row's texts; of a conversation the roles too, which the template writes. */
export const rowTexts = ({ pieces, messages }) =>
  pieces ? [pieces.join("")] : messages.flatMap(({ role, content }) => [role, content]);
