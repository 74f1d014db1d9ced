import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { atomicWriteFile } from "../../formats/atomic.ts";
import { Rng } from "../../util/rng.ts";
import type { TextOrMessages } from "./rewards.ts";

/** A completion with what is known of it, by column. */
export type CompletionRow = Readonly<Record<string, unknown>> & {
  readonly prompt: TextOrMessages;
  readonly completion: TextOrMessages;
};

export interface CompletionsLogOptions {
  readonly enabled: boolean;
  /** Rows kept, the latest. */
  readonly most: number;
  /** Rows printed, drawn at random; null: all. */
  readonly toPrint: number | null;
  /** null: nothing is printed. */
  readonly print: ((text: string) => void) | null;
}

/** Width of a printed column of text, in characters. */
const WIDTH = 60;

/** The latest completions, printed as a table and written to completions/completions_<step>.jsonl with each log. */
export class CompletionsLog {
  private readonly options: CompletionsLogOptions;
  private rows: CompletionRow[] = [];

  constructor(options: CompletionsLogOptions) {
    this.options = options;
  }

  add(row: CompletionRow): void {
    if (!this.options.enabled) return;
    this.rows.push(row);
    if (this.rows.length > this.options.most) this.rows.shift();
  }

  /** Print and write what there is. */
  async flush(outputDir: string, step: number): Promise<void> {
    const { enabled, toPrint, print } = this.options;
    if (!enabled || this.rows.length === 0) return;
    const shown = toPrint === null ? this.rows : sampled(this.rows, toPrint, step);
    print?.(completionsTable(shown, `Step ${step}`));
    const folder = join(outputDir, "completions");
    await mkdir(folder, { recursive: true });
    const lines = this.rows.map((row) => `${JSON.stringify({ step, ...row })}\n`);
    await atomicWriteFile(join(folder, `completions_${String(step).padStart(5, "0")}.jsonl`), lines.join(""));
  }

  /** For checkpoints: a line a row, as it would be written. */
  state(): readonly string[] {
    return this.rows.map((row) => JSON.stringify(row));
  }

  restore(lines: unknown): void {
    this.rows = Array.isArray(lines) ? lines.map((line) => JSON.parse(String(line)) as CompletionRow) : [];
  }
}

/** Prints a table, over the progress bar if there is one. */
export function printTable(text: string): void {
  if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");
  console.log(text);
}

/** Rows in their order, `count` of them, the same for the same step. */
function sampled(rows: readonly CompletionRow[], count: number, step: number): CompletionRow[] {
  const chosen = [...new Rng(step).permutation(rows.length)].slice(0, count).sort((a, b) => a - b);
  return chosen.map((index) => rows[index]!);
}

/** Rows as lines of columns under a title; long texts lose their middle. */
export function completionsTable(rows: readonly CompletionRow[], title: string): string {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cells = rows.map((row) => names.map((name) => cell(row[name])));
  const widths = names.map((name, i) => Math.max(name.length, ...cells.map((line) => line[i]!.length)));
  const line = (items: readonly string[]): string =>
    `| ${items.map((item, i) => item.padEnd(widths[i]!)).join(" | ")} |`;
  const rule = `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`;
  return [title, line(names), rule, ...cells.map(line)].join("\n");
}

function cell(value: unknown): string {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : value.toFixed(2);
  if (value === null || value === undefined) return "";
  const text = Array.isArray(value) ? value.map(messageText).join(" ") : String(value);
  const flat = text.replaceAll("\n", "\\n").replaceAll("|", "\\|");
  const half = Math.floor(WIDTH / 2);
  return flat.length <= WIDTH ? flat : `${flat.slice(0, half - 1)}…${flat.slice(-half)}`;
}

function messageText(message: unknown): string {
  if (typeof message !== "object" || message === null || !("role" in message)) return String(message);
  const { role, content } = message as { role: unknown; content?: unknown };
  return `${String(role).toUpperCase()}: ${typeof content === "string" ? content : JSON.stringify(content)}`;
}
