import { z } from "zod";
import type { Dataset } from "../../data/index.ts";
import { CliCommand } from "../command.ts";
import { loadRows } from "../data-source.ts";
import { UsageError } from "../exit.ts";
import { addSchemaFlags } from "../flags.ts";
import { addModelFlags, checkedFlags, type LoadedModel, loadFromFlags } from "../loading.ts";
import { print, progressLine } from "../terminal.ts";
import { type Answer, exactMatch } from "./exact-match.ts";
import { evaluateLoss, type LossReport } from "./loss.ts";

const evalSchema = z.strictObject({
  split: z.string().min(1).optional().describe('part of the data: test, "test[:200]"'),
  limit: z.number().int().positive().optional().describe("only the first rows"),
  maxSeqLength: z
    .number()
    .int()
    .positive()
    .optional()
    .describe("longest sequence; longer rows are cut (default: 2048)"),
  datasetTextField: z.string().min(1).optional().describe("column of plain text (default: text, or the row's shape)"),
  batchSize: z.number().int().positive().default(8).describe("rows at a time"),
  completionOnlyLoss: z.boolean().optional().describe("count the tokens of completions only"),
  assistantOnlyLoss: z.boolean().default(false).describe("count the tokens of the assistant's turns only"),
  exactMatch: z.boolean().default(false).describe("also have the model answer every row, and compare"),
  answerPattern: z
    .string()
    .min(1)
    .optional()
    .describe("regular expression: compare group 1 of its last match, not the whole answer"),
  maxNewTokens: z.number().int().positive().default(256).describe("longest answer"),
  show: z.number().int().nonnegative().default(3).describe("wrong answers to print"),
});
type EvalSettings = z.output<typeof evalSchema>;

/** `unsloth eval`: how good is a model on held-out rows? */
export function evalCommand(): CliCommand {
  const command = new CliCommand("eval")
    .description("loss, perplexity and accuracy of a model on held-out rows")
    .requiredOption("--data <path>", "rows: file, folder or hub id")
    .option("--json", "the result as JSON")
    .addHelpText(
      "after",
      `
Examples:
  unsloth eval --model PATH --data test.jsonl
  unsloth eval --adapter outputs --data test.jsonl --exact-match --answer-pattern "answer: (-?\\d+)"`,
    ) as CliCommand;
  addModelFlags(command);
  command.optionsGroup("Evaluation:");
  addSchemaFlags(command, evalSchema);
  return command.action(runEval) as CliCommand;
}

interface EvalFlags extends Readonly<Record<string, unknown>> {
  readonly data: string;
  readonly json?: boolean;
}

async function runEval(flags: EvalFlags): Promise<void> {
  const settings = checkedFlags(evalSchema, flags);
  const pattern = patternOf(settings.answerPattern);
  const all = await loadRows(flags.data, settings.split);
  const rows = settings.limit === undefined ? all : all.select(range(Math.min(settings.limit, all.length)));
  using loaded = await loadFromFlags(flags);
  const loss = await lossOf(loaded, rows, settings);
  const answers = settings.exactMatch ? await answersOf(loaded, rows, settings, pattern) : null;
  if (flags.json) return print(JSON.stringify(resultOf(loss, answers), null, 2));
  for (const line of resultLines(loss, answers, settings.show)) print(line);
}

function lossOf({ lm, tokenizer }: LoadedModel, rows: Dataset, settings: EvalSettings): Promise<LossReport> {
  const { completionOnlyLoss, assistantOnlyLoss, batchSize, maxSeqLength = 2048, datasetTextField } = settings;
  return evaluateLoss(lm, tokenizer, rows.located(), {
    batchSize,
    maxSeqLength,
    assistantOnlyLoss,
    ...(datasetTextField !== undefined && { textField: datasetTextField }),
    ...(completionOnlyLoss !== undefined && {
      trainOn: completionOnlyLoss ? ("completion" as const) : ("all" as const),
    }),
    onBatch: progressLine("loss"),
  });
}

function answersOf(
  { lm, tokenizer }: LoadedModel,
  rows: Dataset,
  { batchSize, maxNewTokens }: EvalSettings,
  pattern: RegExp | undefined,
): Promise<Answer[]> {
  const onBatch = progressLine("answers");
  return exactMatch(lm, tokenizer, rows.located(), { batchSize, sampling: { maxNewTokens }, pattern, onBatch });
}

function patternOf(source: string | undefined): RegExp | undefined {
  if (source === undefined) return undefined;
  try {
    return new RegExp(source, "u");
  } catch (error) {
    throw new UsageError(`--answer-pattern: ${(error as Error).message}`);
  }
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const correctOf = (answers: readonly Answer[]): number => answers.filter(({ correct }) => correct).length;

function resultOf({ rows, ...loss }: LossReport, answers: readonly Answer[] | null): Record<string, unknown> {
  const match = answers && { exactMatch: correctOf(answers) / answers.length, correct: correctOf(answers), answers };
  return { ...loss, rows: rows.rows, dropped: rows.dropped, truncated: rows.truncated, ...match };
}

/** The result for people. */
export function resultLines({ rows, ...loss }: LossReport, answers: readonly Answer[] | null, show: number): string[] {
  const lines = [
    `loss            ${loss.loss.toFixed(4)}`,
    `perplexity      ${loss.perplexity.toPrecision(5)}`,
    `token accuracy  ${(100 * loss.tokenAccuracy).toFixed(2)}%`,
    `over ${loss.targets} tokens of ${rows.rows} rows (${rows.dropped} dropped, ${rows.truncated} cut)`,
  ];
  if (!answers) return lines;
  const correct = correctOf(answers);
  lines.push(`exact match     ${((100 * correct) / answers.length).toFixed(2)}% (${correct} of ${answers.length})`);
  for (const { asked, expected, answer } of answers.filter((one) => !one.correct).slice(0, show)) {
    lines.push("", `asked:    ${oneLine(asked)}`, `expected: ${oneLine(expected)}`, `answered: ${oneLine(answer)}`);
  }
  return lines;
}

const oneLine = (text: string): string => {
  const flat = text.replaceAll(/\s+/g, " ").trim();
  return flat.length > 200 ? `${flat.slice(0, 200)}…` : flat;
};
