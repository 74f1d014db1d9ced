import { FormatError, show } from "../formats/errors.ts";
import type { EncodingWithOffsets } from "../tokenizer/pipeline.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/** Unsloth's two strings: what opens a user's turn, and what opens a response. Those left out are the template's. */
export interface ResponseParts {
  instructionPart?: string;
  responsePart?: string;
}

/** Stand for the contents of a conversation: noncharacters, which no text should hold and no template trims. */
const USER = "\ufdd6\ufdd7";
const ASSISTANT = "\ufdd8\ufdd9";

/**
 * Both parts. Those not given are found by rendering a conversation of two turns with the chat template; those given must
 * be in that rendering (where there is a template: text may have been made without). Throws `FormatError`.
 */
export function resolveParts(
  tokenizer: Tokenizer,
  parts: ResponseParts,
  chatTemplate?: string,
): Required<ResponseParts> {
  const { instructionPart, responsePart } = parts;
  for (const [field, value] of Object.entries(parts)) {
    if (value === "") throw new FormatError({ field, found: '""', expected: "the text that opens such a turn" });
  }
  if (tokenizer.chatTemplate === null && chatTemplate === undefined) {
    if (instructionPart !== undefined && responsePart !== undefined) return { instructionPart, responsePart };
    const field = instructionPart === undefined ? "instructionPart" : "responsePart";
    const expected = "a string: without a chat template it cannot be derived";
    throw new FormatError({ field, found: "nothing", expected });
  }
  const template = templateParts(tokenizer, chatTemplate);
  return {
    instructionPart: instructionPart ?? template.instructionPart,
    responsePart: responsePart ?? template.responsePart,
  };
}

/** Throws `FormatError` if the chat template writes none of the parts given: they belong to another model. */
export function checkParts(tokenizer: Tokenizer, parts: ResponseParts, chatTemplate?: string): void {
  const given = Object.entries(parts) as [keyof ResponseParts, string | undefined][];
  if (given.every(([, value]) => value === undefined)) return;
  const template = templateParts(tokenizer, chatTemplate);
  for (const [field, value] of given) {
    if (value === undefined || template.text.includes(value)) continue;
    const expected = `what this chat template writes, such as ${show(template[field])} (or leave it out)`;
    throw new FormatError({ field, found: show(value), expected });
  }
}

function templateParts(tokenizer: Tokenizer, chatTemplate?: string): Required<ResponseParts> & { text: string } {
  const user = { role: "user", content: USER };
  const messages = [user, { role: "assistant", content: ASSISTANT }, user, { role: "assistant", content: ASSISTANT }];
  const options = chatTemplate === undefined ? {} : { chatTemplate };
  const render = (end: number, addGenerationPrompt: boolean): string =>
    tokenizer.applyChatTemplate(messages.slice(0, end), { ...options, addGenerationPrompt, tokenize: false });
  const text = render(4, false);
  const between = (from: string, to: string): string => {
    const start = text.indexOf(from) + from.length;
    return text.slice(start, text.indexOf(to, start));
  };
  const opening = between(USER, ASSISTANT);
  // Of what stands between, the generation prompt opens the response; the rest closes the user's turn.
  const closing = render(1, false).split(USER)[1] ?? "";
  const prompt = render(1, true).split(USER)[1] ?? "";
  const header = prompt.startsWith(closing) ? commonPrefix(opening, prompt).slice(closing.length) : "";
  const { assistantTurns } = tokenizer.encodeChat(messages, options);
  const { offsets } = tokenizer.encodeWithOffsets(text);
  const turnEnd = offsets[2 * assistantTurns[0]![1] - 1]!;
  const nextUser = text.indexOf(USER, text.indexOf(ASSISTANT));
  const instructionPart = text.slice(Math.min(turnEnd, nextUser), nextUser).trimStart();
  if (!text.includes(USER) || nextUser === -1 || instructionPart === "" || opening === "") {
    throw new FormatError({
      field: "chat template",
      found: "one in which nothing opens a turn",
      expected: "instructionPart and responsePart to be given",
    });
  }
  return { instructionPart, responsePart: header === "" ? opening : header, text };
}

/**
 * The [start, end) ranges of a text's tokens that are responses: from the end of each `responsePart` to the next
 * `instructionPart`, or the end. A token counts if any of its characters does. What is white after an end-of-turn token
 * is not counted, as the model does not write it.
 */
export function responseRanges(
  text: string,
  { ids, offsets }: EncodingWithOffsets,
  { instructionPart, responsePart }: Required<ResponseParts>,
  isSpecial: (id: number) => boolean,
): [number, number][] {
  const withoutBlankAfterTurn = (first: number, last: number): number => {
    let end = last;
    while (end > first && text.slice(offsets[2 * end - 2]!, offsets[2 * end - 1]!).trim() === "") end--;
    return end > first && end < last && isSpecial(ids[end - 1]!) ? end : last;
  };
  const ranges: [number, number][] = [];
  let token = 0;
  for (let at = text.indexOf(responsePart); at !== -1; ) {
    const start = at + responsePart.length;
    const next = text.indexOf(instructionPart, start);
    const end = next === -1 ? text.length : next;
    while (token < ids.length && offsets[2 * token + 1]! <= start) token++;
    const first = token;
    while (token < ids.length && offsets[2 * token]! < end) token++;
    ranges.push([first, withoutBlankAfterTurn(first, token)]);
    at = next === -1 ? -1 : text.indexOf(responsePart, end);
  }
  return ranges;
}

function commonPrefix(a: string, b: string): string {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return a.slice(0, length);
}
