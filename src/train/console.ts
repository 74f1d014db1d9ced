import { pythonFloat } from "../util/python-json.ts";
import type { LogRow } from "./callbacks.ts";

const INTEGERS = new Set(["step", "num_input_tokens_seen"]);

/**
 * A row as Hugging Face's trainer prints it, a Python dict: the loss to four decimals, the epoch to two, everything else
 * to four digits (whole numbers in full).
 */
export function consoleRow(row: LogRow): string {
  const cells = Object.entries(row)
    .filter(([key]) => key !== "total_flos")
    .map(([key, value]) => `'${key}': ${INTEGERS.has(key) ? value : repr(rounded(key, value))}`);
  return `{${cells.join(", ")}}`;
}

/** As Python prints a float, which is not how its JSON has those that are not finite. */
function repr(value: number): string {
  return Number.isFinite(value) ? pythonFloat(value) : Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

function rounded(key: string, value: number): number {
  if (key === "epoch") return Number(value.toFixed(2));
  if (key === "loss" || key.endsWith("_loss")) return Number(value.toFixed(4));
  return Math.abs(value) >= 1e4 ? Math.round(value) : Number(value.toPrecision(4));
}
