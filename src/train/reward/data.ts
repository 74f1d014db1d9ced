import type { Dataset, LocatedRow, Row } from "../../data/index.ts";
import { noRows } from "../../data/origin.ts";
import { type PreferenceExample, readPreference } from "../../data/preference-rows.ts";
import { tokenizeChats, tokenizeTexts } from "../../data/preference-tokens.ts";
import { FormatError, show } from "../../formats/errors.ts";
import { ChatTemplateError } from "../../tokenizer/chat-template.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { OptionError } from "../../util/options.ts";
import type { RewardPair } from "./pairs.ts";

/** Rows to be tokenised, or pairs that are. */
export type RewardData = Dataset<Row> | readonly RewardPair[];

/** What became of the rows. */
export interface RewardDataReport {
  readonly rows: number;
  /** Left out: both answers are the same tokens; one is longer than maxLength. */
  readonly dropped: Readonly<Record<"equal" | "tooLong", number>>;
  /** Where the first ones are. */
  readonly droppedAt: readonly string[];
  /** Of the pairs kept. */
  readonly tokens: number;
}

/**
 * Pairs of whole tokenised answers, as TRL's RewardTrainer makes them: prompt and answer as one text, EOS added to plain
 * text, conversations through the chat template. Throws FormatError naming the row at fault, or when none is left.
 */
export function rewardPairs(
  data: RewardData,
  tokenizer: Tokenizer | null,
  maxLength: number | null,
): { pairs: readonly RewardPair[]; report: RewardDataReport } {
  let rows = 0;
  let tokens = 0;
  const dropped = { equal: 0, tooLong: 0 };
  const droppedAt: string[] = [];
  const pairs: RewardPair[] = [];
  for (const [pair, where] of isTokenized(data) ? numbered(data) : tokenized(data, tokenizer)) {
    rows++;
    const why = dropReason(pair, maxLength ?? Number.POSITIVE_INFINITY);
    if (why === null) {
      tokens += pair.chosenIds.length + pair.rejectedIds.length;
      pairs.push(pair);
      continue;
    }
    dropped[why]++;
    if (droppedAt.length < NAMED_DROPS) droppedAt.push(where);
  }
  if (pairs.length > 0) return { pairs, report: { rows, dropped, droppedAt, tokens } };
  const { equal, tooLong } = dropped;
  const why = `${equal} with equal answers, ${tooLong} longer than ${maxLength}; ${droppedAt.slice(0, 3).join(", ")} …`;
  if (rows === 0) throw noRows(isTokenized(data) ? undefined : data.located().origin);
  const found = `${rows} rows, none of which is left (${why})`;
  throw new FormatError({ field: "data set", found, expected: "at least one pair of answers that differ and fit" });
}

const NAMED_DROPS = 20;

function dropReason({ chosenIds, rejectedIds }: RewardPair, maxLength: number): "equal" | "tooLong" | null {
  const same = chosenIds.length === rejectedIds.length && chosenIds.every((id, i) => id === rejectedIds[i]);
  if (same) return "equal";
  return Math.max(chosenIds.length, rejectedIds.length) > maxLength ? "tooLong" : null;
}

const isTokenized = (data: RewardData): data is readonly RewardPair[] => Array.isArray(data);

/** A pair and where it is. */
type Placed = readonly [pair: RewardPair, where: string];

const numbered = (pairs: readonly RewardPair[]): Placed[] => pairs.map((pair, i) => [pair, `pair ${i}`]);

function* tokenized(data: Dataset<Row>, tokenizer: Tokenizer | null): Generator<Placed> {
  if (!tokenizer) throw new OptionError("RewardTrainer: tokenizer is missing (processingClass, in TRL's terms)");
  for (const located of data.located()) {
    const [chosenIds, rejectedIds] = answerIds(readPreference(located), tokenizer, located.where);
    yield [{ chosenIds, rejectedIds, margin: marginOf(located) }, located.where];
  }
}

function answerIds(example: PreferenceExample, tokenizer: Tokenizer, where: string): [Int32Array, Int32Array] {
  try {
    const { sequences } =
      example.kind === "text"
        ? tokenizeTexts(tokenizer, example.prompt, [example.chosen, example.rejected], "prefix")
        : tokenizeChats(
            tokenizer,
            { prompt: example.prompt, answers: [example.chosen, example.rejected] },
            { tools: example.tools, variables: example.variables },
            "prefix",
          );
    return sequences.map(({ ids }) => Int32Array.from(ids)) as [Int32Array, Int32Array];
  } catch (error) {
    if (error instanceof ChatTemplateError) throw new ChatTemplateError(`${where}: ${error.message}`, { cause: error });
    throw error;
  }
}

function marginOf({ row, where }: LocatedRow): number | undefined {
  const { margin } = row;
  if (margin === undefined || margin === null) return undefined;
  if (typeof margin === "number" && Number.isFinite(margin)) return margin;
  throw new FormatError({ file: where, field: "margin", found: show(margin), expected: "a number" });
}
