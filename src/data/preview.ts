import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { IGNORE_INDEX, type TokenizedRow } from "./collate.ts";
import type { LocatedRow } from "./jsonl.ts";
import { emptyReport, type RecipeReport } from "./recipe-report.ts";
import { Recipe, type RecipeOptions } from "./recipes.ts";

export interface PreviewToken {
  id: number;
  /** What it adds to the text; empty where a character needs further tokens. */
  text: string;
  /** The model is trained to produce it. */
  trained: boolean;
}

/** A row as it would be trained on. */
export interface PreviewSample {
  where: string;
  tokens: PreviewToken[];
  /** No token would be trained on: the row is left out. */
  dropped: boolean;
  /** Tokens cut off at maxSeqLength. */
  cut: number;
}

export interface Preview {
  samples: PreviewSample[];
  report: RecipeReport;
  /** Tokens of each row that is kept. */
  lengths: number[];
  /** There are rows beyond `limit`. */
  more: boolean;
}

export interface PreviewOptions {
  /** Samples shown, from the start. */
  rows: number;
  /** Rows counted; infinity for all. */
  limit: number;
}

/** The first rows token by token, and what becomes of all of them. Throws `FormatError` at a malformed row. */
export async function previewRows(
  rows: Iterable<LocatedRow> | AsyncIterable<LocatedRow>,
  tokenizer: Tokenizer,
  options: RecipeOptions,
  { rows: shown, limit }: PreviewOptions,
): Promise<Preview> {
  const recipe = new Recipe(tokenizer, options);
  const preview: Preview = { samples: [], report: emptyReport(), lengths: [], more: false };
  for await (const located of rows) {
    if (preview.report.rows >= limit) {
      preview.more = true;
      break;
    }
    const { tokensCut } = preview.report;
    const row = recipe.prepare(located, preview.report);
    if (row !== null) preview.lengths.push(row.inputIds.length);
    if (preview.samples.length >= shown) continue;
    const cut = preview.report.tokensCut - tokensCut;
    // A row left out is shown too: why has no token of it been chosen?
    const whole = row ?? recipe.tokenize(located);
    preview.samples.push({ where: located.where, tokens: tokensOf(whole, tokenizer), dropped: row === null, cut });
  }
  return preview;
}

function tokensOf({ inputIds, labels }: TokenizedRow, tokenizer: Tokenizer): PreviewToken[] {
  const decoder = tokenizer.createStreamDecoder();
  // Nothing predicts the first token.
  const trained = (i: number): boolean => i > 0 && labels[i] !== IGNORE_INDEX;
  const tokens = Array.from(inputIds, (id, i) => ({ id, text: decoder.push(id), trained: trained(i) }));
  const last = tokens.at(-1);
  if (last !== undefined) last.text += decoder.flush();
  return tokens;
}

/**
 * A sample's text with what is trained on in green and the rest faint or, without colours, trained text in [[brackets]].
 * Control characters are written out, since a data set may hold a terminal's commands.
 */
export function paintSample({ tokens }: PreviewSample, colours: boolean): string {
  const [open, close, faint, normal] = colours ? ["\x1b[32m", "\x1b[39m", "\x1b[2m", "\x1b[22m"] : ["[[", "]]", "", ""];
  let painted = "";
  for (let i = 0; i < tokens.length; ) {
    const { trained } = tokens[i]!;
    let text = "";
    for (; i < tokens.length && tokens[i]!.trained === trained; i++) text += tokens[i]!.text;
    painted += trained ? `${open}${printable(text)}${close}` : `${faint}${printable(text)}${normal}`;
  }
  return painted;
}

/** Control characters but tabs and line ends as escapes. */
function printable(text: string): string {
  return text.replace(/[^\P{Cc}\n\t]/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`);
}
