import { formatBytes } from "../backends/cpu/allocations.ts";

/** A line for people; results for programs go to stdout. */
export const note = (line = ""): void => void process.stderr.write(`${line}\n`);

/** A line of the result. */
export const print = (line = ""): void => void process.stdout.write(`${line}\n`);

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
