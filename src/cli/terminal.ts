import { formatBytes } from "../backends/cpu/allocations.ts";

/** Where words go. */
export interface Output {
  /** Results: standard output. */
  readonly out: (text: string) => void;
  /** Words about the work: standard error. */
  readonly err: (text: string) => void;
}

const STANDARD: Output = {
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
};
let output = STANDARD;

/** Sends words elsewhere, for tests; without an argument back to the standard streams. */
export function redirect(elsewhere: Output = STANDARD): void {
  output = elsewhere;
}

/** A piece of the result. */
export const write = (text: string): void => output.out(text);

/** A piece of what is said about the work. */
export const writeError = (text: string): void => output.err(text);

/** A line about the work. */
export const note = (line = ""): void => writeError(`${line}\n`);

/** A line of the result. */
export const print = (line = ""): void => write(`${line}\n`);

export { formatBytes };

/** "24GB", "1.5 GiB", "512M" or a number of bytes, in bytes. GB and GiB both mean 2^30. null: not a size. */
export function parseBytes(text: string): number | null {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*$/i.exec(text);
  if (!match) return null;
  const power = " kmgt".indexOf(match[2]!.toLowerCase() || " ");
  return Math.round(Number(match[1]) * 1024 ** power);
}

/** Rows of cells as lines with aligned columns; numbers to the right. The first row is the heading. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const numeric = widths.map((_, column) => rows.slice(1).every((row) => /^[-+]?[\d.,]|^$|^–$/.test(row[column]!)));
  return rows.map((row) =>
    row
      .map((cell, i) => (numeric[i] ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join("  ")
      .trimEnd(),
  );
}

/** How far something is, as one line redrawn in a terminal; nothing elsewhere. */
export function progressLine(label: string, stream = process.stderr): (done: number, total: number) => void {
  if (!stream.isTTY) return () => undefined;
  return (done, total) => stream.write(`\r\x1b[K${done < total ? `${label}: ${done} of ${total}` : ""}`);
}
