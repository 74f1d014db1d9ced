import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { IGNORE_INDEX, type TokenizedRow } from "./collate.ts";
import { type ResponseParts, responseRanges } from "./responses.ts";

/**
 * BOS (where the model has it), prompt, text, EOS. A token that spans the border counts as the text's, since the model
 * has to produce it.
 */
export function plainText(tokenizer: Tokenizer, prompt: string, text: string, completionOnly: boolean): TokenizedRow {
  const whole = prompt + text;
  const addSpecialTokens = !hasBos(tokenizer, whole);
  let ids: number[];
  let firstTarget = 0;
  if (completionOnly) {
    const encoding = tokenizer.encodeWithOffsets(whole, { addSpecialTokens });
    ids = encoding.ids;
    while (firstTarget < ids.length && encoding.offsets[2 * firstTarget + 1]! <= prompt.length) firstTarget++;
  } else {
    ids = tokenizer.encode(whole, { addSpecialTokens });
  }
  const eos = tokenizer.eosTokenId;
  if (eos !== null && ids.at(-1) !== eos) ids.push(eos);
  return withTargets(ids, [[firstTarget, ids.length]]);
}

/** A conversation that is text already; only its responses are trained on, each with what ends it. */
export function renderedText(tokenizer: Tokenizer, text: string, parts: Required<ResponseParts>): TokenizedRow {
  const encoding = tokenizer.encodeWithOffsets(text, { addSpecialTokens: !hasBos(tokenizer, text) });
  const isSpecial = (id: number): boolean => tokenizer.specialIds.has(id);
  const ranges = responseRanges(text, encoding, parts, isSpecial);
  const { ids, offsets } = encoding;
  const eos = tokenizer.eosTokenId;
  const last = ranges.at(-1);
  // A last response that no token ends is to end with EOS.
  if (eos !== null && last !== undefined && last[0] < last[1] && !isSpecial(ids[last[1] - 1]!)) {
    if (ids.length === last[1]) ids.push(eos);
    if (ids[last[1]] === eos && offsets[2 * last[1] - 1] === text.length) last[1]++;
  }
  return withTargets(ids, ranges);
}

/** Text that a chat template made begins with BOS; a second one would make it unlike what the model sees later. */
function hasBos(tokenizer: Tokenizer, text: string): boolean {
  return tokenizer.bosToken !== null && tokenizer.bosToken !== "" && text.startsWith(tokenizer.bosToken);
}

export function withTargets(ids: readonly number[], ranges: readonly (readonly [number, number])[]): TokenizedRow {
  const inputIds = Int32Array.from(ids);
  const labels = new Int32Array(ids.length).fill(IGNORE_INDEX);
  for (const [start, end] of ranges) labels.set(inputIds.subarray(start, end), start);
  return { inputIds, labels };
}

/** The prompt that Stanford Alpaca trained with, for models without a chat template. */
export function alpacaPrompt({ instruction, input }: { instruction: string; input: string }): string {
  if (input === "") {
    return (
      "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n" +
      `### Instruction:\n${instruction}\n\n### Response:\n`
    );
  }
  return (
    "Below is an instruction that describes a task, paired with an input that provides further context. " +
    "Write a response that appropriately completes the request.\n\n" +
    `### Instruction:\n${instruction}\n\n### Input:\n${input}\n\n### Response:\n`
  );
}
