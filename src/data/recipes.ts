import { FormatError, show } from "../formats/errors.ts";
import { ChatTemplateError } from "../tokenizer/chat-template.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { TokenizedRow } from "./collate.ts";
import type { LocatedRow } from "./jsonl.ts";
import type { LocatedRows } from "./origin.ts";
import { type Example, readExample } from "./recipe-kinds.ts";
import { countRow, emptyReport, nothingLeft, type RecipeReport } from "./recipe-report.ts";
import { alpacaPrompt, plainText, renderedText, withTargets } from "./recipe-text.ts";
import { checkParts, type ResponseParts, resolveParts } from "./responses.ts";

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
  /** Unsloth's train_on_responses_only: as `assistantOnlyLoss`, for text that is a rendered conversation too. */
  responses?: ResponseParts | null;
  /**
   * Column of plain text, taken whatever else a row has. Rows without it are an error, unless it is "text": then they are
   * read by their shape.
   */
  textField?: string | null;
  /** Longer rows are truncated at their end. By default none is. */
  maxSeqLength?: number;
  /** A chat template other than the tokenizer's own. */
  chatTemplate?: string;
}

/**
 * Tokenizes a data set's rows. A row of any shape `readExample` knows becomes ids, and labels that repeat the ids or are
 * −100 where nothing is trained. Rows without a target are dropped and counted.
 * Throws `FormatError` at a malformed row (naming it), and if no row is left.
 */
export function tokenizeRows(
  rows: LocatedRows,
  tokenizer: Tokenizer,
  options: RecipeOptions = {},
): { rows: TokenizedRow[]; report: RecipeReport } {
  const recipe = new Recipe(tokenizer, options);
  const report = emptyReport();
  const kept: TokenizedRow[] = [];
  for (const located of rows) {
    const row = recipe.prepare(located, report);
    if (row !== null) kept.push(row);
  }
  if (kept.length === 0) throw nothingLeft(report, options.maxSeqLength, rows.origin);
  return { rows: kept, report };
}

/** Tokenizes one row, whole. Throws `FormatError`, or the template's `ChatTemplateError`, naming it. */
export function tokenizeRow(located: LocatedRow, tokenizer: Tokenizer, options: RecipeOptions = {}): TokenizedRow {
  return new Recipe(tokenizer, options).tokenize(located);
}

/** Tokenizes rows one by one, by a tokenizer and options. */
export class Recipe {
  readonly #tokenizer: Tokenizer;
  readonly #options: RecipeOptions;
  readonly #parts: () => Required<ResponseParts>;
  readonly #checkParts: () => void;

  /** Throws `RangeError` at an option out of range. */
  constructor(tokenizer: Tokenizer, options: RecipeOptions = {}) {
    const { maxSeqLength, responses, chatTemplate } = options;
    if (maxSeqLength !== undefined && (!Number.isInteger(maxSeqLength) || maxSeqLength < 1)) {
      throw new RangeError(`maxSeqLength: found ${maxSeqLength}; expected a positive integer`);
    }
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#parts = once(() => resolveParts(tokenizer, responses ?? {}, chatTemplate));
    this.#checkParts = once(() => checkParts(tokenizer, responses ?? {}, chatTemplate));
  }

  /** A row, truncated, and counted; null if it has no target. Throws as `tokenize`. */
  prepare(located: LocatedRow, report: RecipeReport): TokenizedRow | null {
    const { maxSeqLength } = this.#options;
    let row = this.tokenize(located);
    const excess = maxSeqLength === undefined ? 0 : row.inputIds.length - maxSeqLength;
    if (excess > 0) {
      report.truncated++;
      report.tokensCut += excess;
      row = { inputIds: row.inputIds.slice(0, maxSeqLength), labels: row.labels.slice(0, maxSeqLength) };
    }
    return countRow(report, row, located.where) ? row : null;
  }

  /** A row, whole. Throws `FormatError`, or the template's `ChatTemplateError`, naming it. */
  tokenize(located: LocatedRow): TokenizedRow {
    try {
      return this.#tokenizeExample(this.#read(located));
    } catch (error) {
      if (error instanceof ChatTemplateError)
        throw new ChatTemplateError(`${located.where}: ${error.message}`, { cause: error });
      if (error instanceof FormatError && error.file === undefined)
        throw new FormatError({ ...error, file: located.where });
      throw error;
    }
  }

  #read(located: LocatedRow): Example {
    const { textField } = this.#options;
    if (textField === undefined || textField === null) return readExample(located);
    const value = located.row[textField];
    if (typeof value === "string") return { kind: "text", text: value };
    if (textField === "text" && (value === undefined || value === null)) return readExample(located);
    const columns = value === undefined ? ` in a row with ${show(Object.keys(located.row))}` : "";
    throw new FormatError({
      field: `textField ${show(textField)}`,
      found: `${show(value)}${columns}`,
      expected: "a string",
    });
  }

  #tokenizeExample(example: Example): TokenizedRow {
    const { trainOn, assistantOnlyLoss, chatTemplate, responses } = this.#options;
    const tokenizer = this.#tokenizer;
    const responsesOnly = assistantOnlyLoss === true || (responses !== undefined && responses !== null);
    const completionOnly = trainOn === "completion" || responsesOnly;
    switch (example.kind) {
      case "text":
        if (responses !== undefined && responses !== null) return renderedText(tokenizer, example.text, this.#parts());
        if (completionOnly) throw noCompletion(assistantOnlyLoss === true);
        return plainText(tokenizer, "", example.text, false);
      case "prompt-completion":
        return plainText(tokenizer, example.prompt, example.completion, responsesOnly || trainOn !== "all");
      case "alpaca": {
        if (chatTemplate === undefined && tokenizer.chatTemplate === null) {
          return plainText(tokenizer, alpacaPrompt(example), example.output, completionOnly);
        }
        const { instruction, input, output } = example;
        const messages = [
          { role: "user", content: input === "" ? instruction : `${instruction}\n\n${input}` },
          { role: "assistant", content: output },
        ];
        return this.#conversation({ messages, tools: null, variables: {} }, 0);
      }
      case "messages":
        return this.#conversation(example, 0);
      case "chat-completion": {
        const messages = [...example.prompt, ...example.completion];
        return this.#conversation({ ...example, messages }, example.prompt.length);
      }
    }
  }

  /**
   * A conversation through the chat template, nothing added. Trained on: everything; the assistant's turns; or, where the
   * row tells prompt from completion (`promptLength` messages), all from the completion's first turn on.
   */
  #conversation(chat: Conversation, promptLength: number): TokenizedRow {
    const { messages, tools, variables } = chat;
    const { trainOn, assistantOnlyLoss, chatTemplate, responses } = this.#options;
    const template = { tools, variables, ...(chatTemplate !== undefined && { chatTemplate }) };
    const responsesOnly = assistantOnlyLoss === true || (responses !== undefined && responses !== null);
    const turnsOnly = responsesOnly || (promptLength === 0 && trainOn === "completion");
    const fromCompletion = promptLength > 0 && trainOn !== "all";
    if (!turnsOnly && !fromCompletion) {
      const ids = this.#tokenizer.applyChatTemplate(messages, template);
      return withTargets(ids, [[0, ids.length]]);
    }
    this.#checkParts();
    const { ids, assistantTurns } = this.#tokenizer.encodeChat(messages, template);
    const isAssistant = ({ role }: { role: string }): boolean => role === "assistant";
    const turns = fromCompletion
      ? assistantTurns.slice(messages.slice(0, promptLength).filter(isAssistant).length)
      : assistantTurns;
    if (turnsOnly || turns.length === 0) return withTargets(ids, turns);
    return withTargets(ids, [[turns[0]![0], ids.length]]);
  }
}

type Conversation = Pick<Extract<Example, { kind: "messages" }>, "messages" | "tools" | "variables">;

function noCompletion(assistantOnly: boolean): FormatError {
  return new FormatError({
    field: assistantOnly ? "assistantOnlyLoss" : "trainOn",
    found: `${assistantOnly ? "true" : '"completion"'} for a row that is plain text`,
    expected:
      "rows with a prompt and a completion, or messages; or trainOnResponsesOnly for text that is a conversation",
  });
}

function once<T>(compute: () => T): () => T {
  let result: { value: T } | undefined;
  return () => {
    result ??= { value: compute() };
    return result.value;
  };
}
