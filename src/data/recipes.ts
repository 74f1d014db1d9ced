import { FormatError } from "../formats/errors.ts";
import { ChatTemplateError } from "../tokenizer/chat-template.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { IGNORE_INDEX, type TokenizedRow } from "./collate.ts";
import type { LocatedRow } from "./jsonl.ts";
import { type Example, readExample } from "./recipe-kinds.ts";

/** Which tokens are trained on. */
export type TrainOn = "all" | "completion";

export interface RecipeOptions {
  /**
   * "completion": only what the model is to produce (the completion, the output, the assistant's turns). By default that
   * for prompt/completion rows, and "all" for the others, as TRL has it.
   */
  trainOn?: TrainOn;
  /** Conversations: train on the assistant's turns only (TRL's assistant_only_loss). Default false. */
  assistantOnlyLoss?: boolean;
  /** Longer rows are truncated at their end. By default none is. */
  maxSeqLength?: number;
  /** A chat template other than the tokenizer's own. */
  chatTemplate?: string;
}

/** What came of the rows, to be shown. */
export interface RecipeReport {
  rows: number;
  /** Rows left out because no token of theirs would be trained on, and where the first ones are. */
  dropped: number;
  droppedAt: string[];
  /** Rows truncated to `maxSeqLength`, and the tokens that lost. */
  truncated: number;
  tokensCut: number;
  /** Of the rows kept: tokens, and those trained on. */
  tokens: number;
  targets: number;
}

const NAMED_DROPS = 5;

/**
 * Tokenizes a data set's rows. A row of any shape `readExample` knows becomes ids, and labels that repeat the ids or are
 * −100 where nothing is trained. Rows without a target are dropped and counted.
 * Throws `FormatError` at a malformed row (naming it), and if no row is left.
 */
export function tokenizeRows(
  rows: Iterable<LocatedRow>,
  tokenizer: Tokenizer,
  options: RecipeOptions = {},
): { rows: TokenizedRow[]; report: RecipeReport } {
  const { maxSeqLength } = options;
  if (maxSeqLength !== undefined && (!Number.isInteger(maxSeqLength) || maxSeqLength < 1)) {
    throw new RangeError(`maxSeqLength: found ${maxSeqLength}; expected a positive integer`);
  }
  const report: RecipeReport = {
    rows: 0,
    dropped: 0,
    droppedAt: [],
    truncated: 0,
    tokensCut: 0,
    tokens: 0,
    targets: 0,
  };
  const kept: TokenizedRow[] = [];
  for (const located of rows) {
    report.rows++;
    let row = tokenizeRow(located, tokenizer, options);
    const excess = maxSeqLength === undefined ? 0 : row.inputIds.length - maxSeqLength;
    if (excess > 0) {
      report.truncated++;
      report.tokensCut += excess;
      row = { inputIds: row.inputIds.slice(0, maxSeqLength), labels: row.labels.slice(0, maxSeqLength) };
    }
    const targets = countTargets(row);
    if (targets === 0) {
      report.dropped++;
      if (report.droppedAt.length < NAMED_DROPS) report.droppedAt.push(located.where);
      continue;
    }
    report.tokens += row.inputIds.length;
    report.targets += targets;
    kept.push(row);
  }
  if (kept.length === 0) throw nothingLeft(report, maxSeqLength);
  return { rows: kept, report };
}

/** Tokenizes one row, whole. Throws `FormatError`, or the template's `ChatTemplateError`, naming it. */
export function tokenizeRow(located: LocatedRow, tokenizer: Tokenizer, options: RecipeOptions = {}): TokenizedRow {
  const example = readExample(located);
  try {
    return tokenizeExample(example, tokenizer, options);
  } catch (error) {
    if (error instanceof ChatTemplateError)
      throw new ChatTemplateError(`${located.where}: ${error.message}`, { cause: error });
    if (error instanceof FormatError && error.file === undefined)
      throw new FormatError({ ...error, file: located.where });
    throw error;
  }
}

/** Labels that count: all but the first token's, which nothing predicts. */
export function countTargets({ labels }: TokenizedRow): number {
  let count = 0;
  for (let i = 1; i < labels.length; i++) if (labels[i] !== IGNORE_INDEX) count++;
  return count;
}

function tokenizeExample(example: Example, tokenizer: Tokenizer, options: RecipeOptions): TokenizedRow {
  const completionOnly = options.trainOn === "completion";
  switch (example.kind) {
    case "text":
      if (completionOnly) {
        throw new FormatError({
          field: "trainOn",
          found: '"completion" for a row that is plain text',
          expected: '"all", or rows with a prompt and a completion',
        });
      }
      return plainText(tokenizer, "", example.text, false);
    case "prompt-completion":
      return plainText(tokenizer, example.prompt, example.completion, options.trainOn !== "all");
    case "alpaca": {
      if (options.chatTemplate === undefined && tokenizer.chatTemplate === null) {
        return plainText(tokenizer, alpacaPrompt(example), example.output, completionOnly);
      }
      const { instruction, input, output } = example;
      const messages = [
        { role: "user", content: input === "" ? instruction : `${instruction}\n\n${input}` },
        { role: "assistant", content: output },
      ];
      return conversation(tokenizer, { messages, tools: null, variables: {} }, 0, options);
    }
    case "messages":
      return conversation(tokenizer, example, 0, options);
    case "chat-completion": {
      const messages = [...example.prompt, ...example.completion];
      return conversation(tokenizer, { ...example, messages }, example.prompt.length, options);
    }
  }
}

/**
 * BOS (where the model has it), prompt, text, EOS. A token that spans the border counts as the text's, since the model
 * has to produce it.
 */
function plainText(tokenizer: Tokenizer, prompt: string, text: string, completionOnly: boolean): TokenizedRow {
  const whole = prompt + text;
  let ids: number[];
  let firstTarget = 0;
  if (completionOnly) {
    const encoding = tokenizer.encodeWithOffsets(whole, { addSpecialTokens: true });
    ids = encoding.ids;
    while (firstTarget < ids.length && encoding.offsets[2 * firstTarget + 1]! <= prompt.length) firstTarget++;
  } else {
    ids = tokenizer.encode(whole);
  }
  const eos = tokenizer.eosTokenId;
  if (eos !== null && ids.at(-1) !== eos) ids.push(eos);
  return withTargets(ids, [[firstTarget, ids.length]]);
}

/**
 * A conversation through the chat template, nothing added. Trained on: everything; the assistant's turns; or, where the
 * row tells prompt from completion (`promptLength` messages), all from the completion's first turn on.
 */
function conversation(
  tokenizer: Tokenizer,
  chat: Pick<Extract<Example, { kind: "messages" }>, "messages" | "tools" | "variables">,
  promptLength: number,
  options: RecipeOptions,
): TokenizedRow {
  const { messages, tools, variables } = chat;
  const template = {
    tools,
    variables,
    ...(options.chatTemplate !== undefined && { chatTemplate: options.chatTemplate }),
  };
  const turnsOnly = options.assistantOnlyLoss === true || (promptLength === 0 && options.trainOn === "completion");
  const fromCompletion = promptLength > 0 && options.trainOn !== "all";
  if (!turnsOnly && !fromCompletion) {
    const ids = tokenizer.applyChatTemplate(messages, template);
    return withTargets(ids, [[0, ids.length]]);
  }
  const { ids, assistantTurns } = tokenizer.encodeChat(messages, template);
  const isAssistant = ({ role }: { role: string }): boolean => role === "assistant";
  const turns = fromCompletion
    ? assistantTurns.slice(messages.slice(0, promptLength).filter(isAssistant).length)
    : assistantTurns;
  if (turnsOnly || turns.length === 0) return withTargets(ids, turns);
  return withTargets(ids, [[turns[0]![0], ids.length]]);
}

function withTargets(ids: readonly number[], ranges: readonly (readonly [number, number])[]): TokenizedRow {
  const inputIds = Int32Array.from(ids);
  const labels = new Int32Array(ids.length).fill(IGNORE_INDEX);
  for (const [start, end] of ranges) labels.set(inputIds.subarray(start, end), start);
  return { inputIds, labels };
}

/** The prompt that Stanford Alpaca trained with, for models without a chat template. */
function alpacaPrompt({ instruction, input }: { instruction: string; input: string }): string {
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

function nothingLeft(
  { rows, dropped, droppedAt, truncated }: RecipeReport,
  maxSeqLength: number | undefined,
): FormatError {
  if (rows === 0) return new FormatError({ field: "data set", found: "no rows", expected: "at least one" });
  const cut = truncated === 0 ? "" : `; ${truncated} rows lost their end to maxSeqLength ${maxSeqLength}`;
  return new FormatError({
    field: "data set",
    found: `${rows} rows, ${dropped} of them (${droppedAt.join(", ")} …) without a token to train on${cut}`,
    expected: 'completions that fit in maxSeqLength, or trainOn: "all"',
  });
}
