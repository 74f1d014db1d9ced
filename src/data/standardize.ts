import { FormatError, show } from "../formats/errors.ts";
import { Dataset } from "./dataset.ts";
import type { Row } from "./jsonl.ts";
import { messages } from "./recipe-kinds.ts";
import type { StreamingDataset } from "./streaming.ts";

export interface StandardizeOptions {
  /** Further names for the roles, beside ShareGPT's "human", "gpt" and the like. */
  aliasesForSystem?: readonly string[];
  aliasesForUser?: readonly string[];
  aliasesForAssistant?: readonly string[];
}

const COLUMNS = ["conversations", "conversation", "messages"];

/**
 * Unsloth's standardize_sharegpt: conversations as {"from", "value"} become {"role", "content"} with the roles "system",
 * "user" and "assistant", in a column "conversations" (or "messages", where that is its name). Other columns stay.
 * Training needs none of it, as it reads both; functions of yours that call `applyChatTemplate` do.
 * Throws `FormatError` naming the row.
 */
export function standardizeSharegpt(dataset: Dataset, options?: StandardizeOptions): Dataset;
export function standardizeSharegpt(dataset: StreamingDataset, options?: StandardizeOptions): StreamingDataset;
export function standardizeSharegpt(
  dataset: Dataset | StreamingDataset,
  options: StandardizeOptions = {},
): Dataset | StreamingDataset {
  const roles = Object.entries({
    system: options.aliasesForSystem ?? [],
    user: options.aliasesForUser ?? [],
    assistant: options.aliasesForAssistant ?? [],
  });
  const aliases = Object.fromEntries(roles.flatMap(([role, names]) => names.map((name) => [name, role])));
  const standardize = (row: Row, index: number): Row => {
    const where = dataset instanceof Dataset ? dataset.where(index) : `row ${index}`;
    const column = COLUMNS.find((name) => row[name] !== undefined && row[name] !== null);
    if (column === undefined) {
      const found = show(Object.keys(row));
      throw new FormatError({ file: where, field: "fields", found, expected: `one of ${COLUMNS.join(", ")}` });
    }
    const { [column]: _, ...rest } = row;
    return { ...rest, [column === "messages" ? column : "conversations"]: messages({ row, where }, column, aliases) };
  };
  return dataset instanceof Dataset ? dataset.map(standardize) : dataset.map(standardize);
}
