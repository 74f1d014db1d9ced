import { z } from "zod";
import { Dataset, type LocatedRow, type Row } from "../../data/index.ts";
import { noRows } from "../../data/origin.ts";
import { readPrompt } from "../../data/preference-rows.ts";
import { FormatError } from "../../formats/errors.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { OptionError } from "../../util/options.ts";
import type { TextOrMessages } from "./rewards.ts";

/** A prompt of the data. */
export interface PromptRow {
  /** As reward functions see it. */
  readonly prompt: TextOrMessages;
  readonly ids: readonly number[];
  /** The row's other columns. */
  readonly columns: Row;
}

export interface PromptSettings {
  /** Name of the trainer, for errors. */
  readonly owner: string;
  readonly tokenizer: Tokenizer;
  /** Longer prompts keep their last tokens only. */
  readonly maxPromptLength: number | null;
  readonly chatTemplateKwargs: Readonly<Record<string, unknown>>;
}

/** The setting of that name, of both trainers; null is none. */
export const chatTemplateVariables = z
  .record(z.string(), z.unknown())
  .nullable()
  .default({})
  .transform((variables) => variables ?? {})
  .describe("further variables of the chat template");

/** Columns that would hide what a reward function gets by the same name. */
const RESERVED = ["prompt", "completion", "completion_ids"];

/**
 * Rows with a `prompt`, a text or a list of messages, as tokens; conversations end with what opens the assistant's turn.
 * Throws FormatError naming file and line of a row that has none, or an empty one, and where there is no row.
 */
export function promptRows(data: Dataset<Row>, settings: PromptSettings): PromptRow[] {
  if (!(data instanceof Dataset)) {
    throw new OptionError(`${settings.owner}: trainDataset is not a Dataset; load it with Dataset.load`);
  }
  const rows = data.located();
  if (data.length === 0) throw noRows(rows.origin);
  return Array.from(rows, (located) => promptRow(located, settings));
}

/**
 * Positions that the longest prompt with a completion needs. Throws OptionError when the model has not so many.
 * @param limits `option` is the name of the setting that says how long completions may be
 */
export function checkedLengths(
  owner: string,
  prompts: readonly PromptRow[],
  { most, completion, option }: { readonly most: number; readonly completion: number; readonly option: string },
): number {
  let longest = 0;
  for (const [i, { ids }] of prompts.entries()) if (ids.length > (prompts[longest]?.ids.length ?? 0)) longest = i;
  const length = prompts[longest]?.ids.length ?? 0;
  if (length + completion <= most) return length + completion;
  throw new OptionError(
    `${owner}: the longest prompt (row ${longest}) has ${length} tokens, which with ${option} ${completion} is more ` +
      `than the model's ${most} positions: set maxPromptLength, or lower ${option}`,
  );
}

function promptRow(located: LocatedRow, settings: PromptSettings): PromptRow {
  const { tokenizer, maxPromptLength, chatTemplateKwargs } = settings;
  const example = readPrompt(located);
  const all =
    example.kind === "text"
      ? tokenizer.encode(example.prompt)
      : tokenizer.applyChatTemplate(example.prompt, {
          addGenerationPrompt: true,
          tools: example.tools,
          variables: { ...chatTemplateKwargs, ...example.variables },
        });
  if (all.length === 0) {
    const expected = "at least one token (the tokenizer adds none at the beginning of a text)";
    throw new FormatError({ file: located.where, field: "prompt", found: "an empty prompt", expected });
  }
  const columns = Object.fromEntries(Object.entries(located.row).filter(([name]) => !RESERVED.includes(name)));
  const ids = maxPromptLength === null ? all : all.slice(-maxPromptLength);
  return { prompt: example.prompt, ids, columns };
}
