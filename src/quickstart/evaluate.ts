import { generate } from "../generate/index.ts";
import type { CausalLM } from "../models/model.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { Problem } from "./problems.ts";

/** An answer to a held-out problem. */
export interface Sample {
  readonly instruction: string;
  readonly input: string;
  readonly expected: string;
  readonly output: string;
  /** The number read from the output; null: there is none. */
  readonly found: number | null;
  readonly correct: boolean;
}

/** How many are answered at a time. */
const BATCH = 100;
/** The longest answer has about 90 tokens. */
const MAX_NEW_TOKENS = 128;

/**
 * The final answer in a text: the number on the last line that says "Answer:" or "答案："; where no line does, the last
 * number there is, so that a right result in another form counts too.
 */
export function finalAnswer(output: string): number | null {
  const named = [...output.matchAll(/^\s*(?:Answer:|答案[：:])\s*(-?\d+)/gm)].at(-1);
  const number = named?.[1] ?? [...output.matchAll(/\d+/g)].at(-1)?.[0];
  return number === undefined ? null : Number(number);
}

/** Answers to the problems, greedily generated in batches; `onProgress` hears how many are done. */
export async function answerProblems(
  model: CausalLM,
  tokenizer: Tokenizer,
  problems: readonly Problem[],
  onProgress: (done: number, correct: number) => void,
): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (let at = 0; at < problems.length; at += BATCH) {
    const batch = problems.slice(at, at + BATCH);
    const prompts = batch.map(({ row: { instruction, input } }) =>
      tokenizer.applyChatTemplate([{ role: "user", content: `${instruction}\n\n${input}` }], {
        addGenerationPrompt: true,
      }),
    );
    const outputs = await generate(model, tokenizer, prompts, { maxNewTokens: MAX_NEW_TOKENS });
    batch.forEach(({ row, answer }, i) => {
      const output = outputs[i]!.text;
      const found = finalAnswer(output);
      const { instruction, input } = row;
      samples.push({ instruction, input, expected: row.output, output, found, correct: found === answer });
    });
    onProgress(samples.length, samples.filter(({ correct }) => correct).length);
  }
  return samples;
}

/** Share of right answers. */
export function accuracy(samples: readonly Sample[]): number {
  return samples.filter(({ correct }) => correct).length / samples.length;
}
