import { FormatError } from "../formats/errors.ts";
import { type ChatMessage, ChatTemplateError } from "../tokenizer/chat-template.ts";
import type { ChatTemplateOptions, Tokenizer } from "../tokenizer/tokenizer.ts";
import type { TokenizedRow } from "./collate.ts";
import { IGNORE_INDEX } from "./collate.ts";
import type { LocatedRow, Row } from "./jsonl.ts";
import type { LocatedRows } from "./origin.ts";
import {
  countDrop,
  type DropReason,
  emptyPreferenceReport,
  noPreferencesLeft,
  type PreferenceReport,
} from "./preference-report.ts";
import {
  isPreferenceRow,
  type PromptExample,
  readPreference,
  readPrompt,
  readUnpaired,
  type UnpairedExample,
  unpair,
} from "./preference-rows.ts";
import {
  type AnswerIds,
  type AnswerTokens,
  tokenizeChats,
  tokenizePrompt,
  tokenizeTexts,
} from "./preference-tokens.ts";
import { countTargets } from "./recipe-report.ts";

export type TruncationMode = "keep_start" | "keep_end";

export interface PreferenceOptions {
  /** Tokens of prompt and answer; longer sequences are cut. By default none is. */
  maxLength?: number | null;
  /** Which end of a sequence that is too long stays. Default "keep_start". */
  truncationMode?: TruncationMode;
  /** Longer prompts lose their beginning. */
  maxPromptLength?: number | null;
  /** Longer answers lose their end. */
  maxCompletionLength?: number | null;
  /** A chat template other than the tokenizer's own. */
  chatTemplate?: string | null;
  /** Default "prefix". */
  answerTokens?: AnswerTokens;
}

/** Two answers to a prompt, each with it: labels are −100 in the prompt. */
export interface PreferencePair {
  readonly chosen: TokenizedRow;
  readonly rejected: TokenizedRow;
}

/** A prompt with one answer; `label`: it is wanted. */
export interface LabelledAnswer {
  readonly row: TokenizedRow;
  /** The answer's tokens, those included that `maxLength` has cut from the row. */
  readonly answer: Int32Array;
  readonly label: boolean;
}

/** A prompt as ids, what it was made from, and the row's other columns. */
export interface PromptRow {
  readonly ids: Int32Array;
  readonly prompt: string | readonly ChatMessage[];
  readonly columns: Row;
  readonly where: string;
}

/**
 * Tokenizes rows of preference pairs. Rows with equal or empty answers, or of whose answers nothing is left, are left out
 * and counted. Throws `FormatError` at a malformed row (naming it), and if no row is left.
 */
export function tokenizePreferences(
  rows: LocatedRows,
  tokenizer: Tokenizer,
  options: PreferenceOptions = {},
): { pairs: PreferencePair[]; report: PreferenceReport } {
  const recipe = new PreferenceRecipe(tokenizer, options);
  const pairs = [...rows].flatMap((located) => {
    const pair = recipe.pair(located);
    return pair === null ? [] : [pair];
  });
  if (pairs.length === 0) throw noPreferencesLeft(recipe.report, rows.origin);
  return { pairs, report: recipe.report };
}

/** Pairs are taken apart a thousand at a time: their chosen answers, then their rejected ones (TRL's order). */
const UNPAIRED_AT_ONCE = 1000;

/** Tokenizes rows of labelled answers; rows of pairs are taken apart. Throws as `tokenizePreferences` does. */
export function tokenizeUnpaired(
  rows: LocatedRows,
  tokenizer: Tokenizer,
  options: PreferenceOptions = {},
): { answers: LabelledAnswer[]; report: PreferenceReport } {
  const recipe = new PreferenceRecipe(tokenizer, options);
  const answers: LabelledAnswer[] = [];
  let held: LabelledAnswer[] = [];
  let pairs = 0;
  const add = (to: LabelledAnswer[], answer: LabelledAnswer | null): void => void (answer && to.push(answer));
  const release = (): void => {
    answers.push(...held);
    held = [];
    pairs = 0;
  };
  for (const located of rows) {
    if (!isPreferenceRow(located.row)) {
      release();
      add(answers, recipe.single(located));
      continue;
    }
    const [chosen, rejected] = recipe.halves(located);
    add(answers, chosen);
    add(held, rejected);
    if (++pairs === UNPAIRED_AT_ONCE) release();
  }
  release();
  if (answers.length === 0) throw noPreferencesLeft(recipe.report, rows.origin);
  return { answers, report: recipe.report };
}

/**
 * Tokenizes prompts that answers are to be generated for. Longer ones than `maxPromptLength` lose their beginning. Throws
 * `FormatError` at a malformed row, naming it.
 */
export function tokenizePrompts(
  rows: LocatedRows,
  tokenizer: Tokenizer,
  options: Pick<PreferenceOptions, "maxPromptLength" | "chatTemplate"> = {},
): PromptRow[] {
  const recipe = new PreferenceRecipe(tokenizer, options);
  const prompts = Array.from(rows, (located) => recipe.prompt(located));
  if (prompts.length === 0) throw noPreferencesLeft(recipe.report, rows.origin);
  return prompts;
}

/** Tokenizes rows one by one, and counts what became of them. */
class PreferenceRecipe {
  readonly report = emptyPreferenceReport();
  readonly #tokenizer: Tokenizer;
  readonly #options: PreferenceOptions;

  constructor(tokenizer: Tokenizer, options: PreferenceOptions) {
    for (const name of ["maxLength", "maxPromptLength", "maxCompletionLength"] as const) {
      const value = options[name] ?? null;
      if (value !== null && (!Number.isInteger(value) || value < 1)) {
        throw new RangeError(`${name}: found ${value}; expected a positive integer`);
      }
    }
    this.#tokenizer = tokenizer;
    this.#options = options;
  }

  pair(located: LocatedRow): PreferencePair | null {
    return naming(located.where, () => {
      const example = readPreference(located);
      const kept = this.#answers(example, [example.chosen, example.rejected], located.where);
      if (kept === null) return null;
      const [chosen, rejected] = kept.map(({ row }) => row) as [TokenizedRow, TokenizedRow];
      if (sameIds(chosen, rejected)) return this.#drop("equal", located.where);
      return { chosen: this.#keep(chosen), rejected: this.#keep(rejected) };
    });
  }

  single(located: LocatedRow): LabelledAnswer | null {
    return naming(located.where, () => this.#single(readUnpaired(located), located.where));
  }

  /** The answers of a pair, each on its own. */
  halves(located: LocatedRow): [LabelledAnswer | null, LabelledAnswer | null] {
    return naming(located.where, () => {
      const [chosen, rejected] = unpair(readPreference(located));
      return [this.#single(chosen, located.where), this.#single(rejected, located.where)];
    });
  }

  prompt(located: LocatedRow): PromptRow {
    return naming(located.where, () => {
      const example = readPrompt(located);
      const ids = tokenizePrompt(this.#tokenizer, example, this.#template(example));
      const { maxPromptLength } = this.#options;
      const { prompt: _, ...columns } = located.row;
      return {
        ids: Int32Array.from(maxPromptLength ? ids.slice(-maxPromptLength) : ids),
        prompt: example.prompt,
        columns,
        where: located.where,
      };
    });
  }

  #single(example: UnpairedExample, where: string): LabelledAnswer | null {
    const kept = this.#answers(example, [example.completion], where);
    return kept && { row: this.#keep(kept[0]!.row), answer: kept[0]!.answer, label: example.label };
  }

  /** Each answer with its prompt, cut to size; null if one is empty or cut away. */
  #answers(
    example: PromptExample,
    answers: readonly (string | readonly ChatMessage[])[],
    where: string,
  ): { row: TokenizedRow; answer: Int32Array }[] | null {
    this.report.rows++;
    if (answers.some(isEmpty)) return this.#drop("empty", where);
    const { answerTokens = "prefix" } = this.#options;
    const { sequences, moved } =
      example.kind === "text"
        ? tokenizeTexts(this.#tokenizer, example.prompt, answers as string[], answerTokens)
        : tokenizeChats(
            this.#tokenizer,
            { prompt: example.prompt, answers: answers as ChatMessage[][] },
            this.#template(example),
            answerTokens,
          );
    if (moved) this.report.movedBoundaries++;
    const cut = sequences.map((sequence) => this.#cut(sequence));
    return cut.some(({ row }) => countTargets(row) === 0) ? this.#drop("cut", where) : cut;
  }

  #cut({ ids, promptLength }: AnswerIds): { row: TokenizedRow; answer: Int32Array } {
    const { maxLength, maxPromptLength, maxCompletionLength, truncationMode = "keep_start" } = this.#options;
    const prompt = maxPromptLength ? Math.min(promptLength, maxPromptLength) : promptLength;
    const end = maxCompletionLength ? Math.min(ids.length, promptLength + maxCompletionLength) : ids.length;
    let inputIds = Int32Array.from(ids.slice(promptLength - prompt, end));
    const answer = inputIds.subarray(prompt);
    let labels = Int32Array.from(inputIds).fill(IGNORE_INDEX, 0, prompt);
    if (maxLength && inputIds.length > maxLength) {
      const range: [number, number?] = truncationMode === "keep_end" ? [-maxLength] : [0, maxLength];
      [inputIds, labels] = [inputIds.slice(...range), labels.slice(...range)];
    }
    const lost = ids.length - inputIds.length;
    if (lost > 0) this.report.truncated++;
    this.report.tokensCut += lost;
    return { row: { inputIds, labels }, answer };
  }

  #keep(row: TokenizedRow): TokenizedRow {
    this.report.tokens += row.inputIds.length;
    this.report.targets += countTargets(row);
    return row;
  }

  #drop(why: DropReason, where: string): null {
    countDrop(this.report, why, where);
    return null;
  }

  #template(example: PromptExample): ChatTemplateOptions {
    if (example.kind === "text") return {};
    const { chatTemplate } = this.#options;
    return { tools: example.tools, variables: example.variables, ...(chatTemplate && { chatTemplate }) };
  }
}

function isEmpty(answer: string | readonly ChatMessage[]): boolean {
  if (typeof answer === "string") return answer.trim() === "";
  return answer.every(({ content, tool_calls: calls }) => {
    const says = typeof content === "string" ? content.trim() !== "" : (content?.length ?? 0) > 0;
    return !says && !(Array.isArray(calls) && calls.length > 0);
  });
}

const sameIds = (a: TokenizedRow, b: TokenizedRow): boolean =>
  a.inputIds.length === b.inputIds.length && a.inputIds.every((id, i) => id === b.inputIds[i]);

/** Errors of a row that do not say which, saying it. */
function naming<T>(where: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (error instanceof ChatTemplateError) throw new ChatTemplateError(`${where}: ${error.message}`, { cause: error });
    if (error instanceof FormatError && error.file === undefined) throw new FormatError({ ...error, file: where });
    throw error;
  }
}
