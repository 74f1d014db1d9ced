// Rows of random token ids that both sides of the benchmarks of DPO and PPO read.
import { readFileSync, writeFileSync } from "node:fs";
import { random32 } from "./lib.mjs";

const drawn = (length, vocab) => Array.from({ length }, () => 10 + (random32() % (vocab - 10)));

/** Pairs of token ids: prompts of one length, answers of `least` to `most` tokens. Both sides read the file. */
export function writePairs(file, { pairs, prompt, least, most, vocab }) {
  const answer = () => drawn(least + (random32() % (most - least + 1)), vocab);
  const rows = Array.from({ length: pairs }, () => ({
    prompt_ids: drawn(prompt, vocab),
    chosen_ids: answer(),
    rejected_ids: answer(),
  }));
  writeFileSync(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
}

export function writePrompts(file, { prompts, prompt, vocab }) {
  const rows = Array.from({ length: prompts }, () => ({ input_ids: drawn(prompt, vocab) }));
  writeFileSync(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
}

export const readRows = (file) => readFileSync(file, "utf8").trim().split("\n").map(JSON.parse);
