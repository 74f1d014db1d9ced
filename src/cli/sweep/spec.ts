import { parse } from "yaml";
import { z } from "zod";
import { reason } from "../../formats/errors.ts";
import { camelCase, OptionError, parseOptions } from "../../util/options.ts";
import { UsageError } from "../exit.ts";
import { snake } from "../flags.ts";
import type { SettingsTable } from "../settings/table.ts";
import { type Given, TRAIN_TABLE } from "../settings/train-settings.ts";

const specSchema = z.strictObject({
  method: z.enum(["grid", "list"]).optional(),
  /** Values of each option; every combination is a run. */
  parameters: z.record(z.string(), z.array(z.unknown()).min(1)).optional(),
  /** Options of each run. */
  runs: z.array(z.record(z.string(), z.unknown())).min(1).optional(),
  /** What says which run is best; eval_loss where rows are held out, else train_loss. */
  metric: z.string().min(1).optional(),
  greaterIsBetter: z.boolean().optional(),
});

/** What to try. */
export interface SweepSpec {
  /** Options of each run that differ from run to run, by name. */
  readonly runs: readonly Given[];
  readonly metric: string | null;
  /** null: unless it is a loss. */
  readonly greaterIsBetter: boolean | null;
}

/** More is a slip of the pen. */
const MANY = 1000;

/**
 * The runs of a sweep: its section in the file (`parameters` for a grid, or `runs`, or simply options with lists of
 * values), and `--grid name=a,b` flags. All values are checked, against `table`. Throws UsageError.
 */
export function sweepSpec(
  section: unknown,
  where: string,
  grids: readonly string[],
  table: SettingsTable = TRAIN_TABLE,
): SweepSpec {
  const spec = parseSection(section ?? {}, where);
  const parameters = { ...spec.parameters, ...Object.fromEntries(grids.map(gridFlag)) };
  const isGrid = Object.keys(parameters).length > 0;
  if (isGrid && spec.runs) throw new UsageError(`${where}: give parameters (a grid) or runs (a list), not both`);
  if (!isGrid && !spec.runs) {
    throw new UsageError(
      `${where}: nothing to try: give a "sweep:" section with parameters, e.g. { learning_rate: [1e-4, 2e-4] }, or --grid learning_rate=1e-4,2e-4`,
    );
  }
  if (spec.method === "list" && isGrid) throw new UsageError(`${where}: method "list" needs runs`);
  if (spec.method === "grid" && !isGrid) throw new UsageError(`${where}: method "grid" needs parameters`);
  const combinations = spec.runs ?? product(parameters, where);
  const runs = combinations.map((options) => {
    const given = Object.entries(options).map(([key, value]) => table.fromName(key, value, where));
    return new Map(given.map((setting) => [setting.name, setting]));
  });
  const metric = spec.metric ?? null;
  return { runs, metric, greaterIsBetter: spec.greaterIsBetter ?? null };
}

function parseSection(section: unknown, where: string): z.output<typeof specSchema> {
  if (typeof section !== "object" || section === null || Array.isArray(section)) {
    throw new UsageError(`${where}: sweep: expected options with lists of values, found ${JSON.stringify(section)}`);
  }
  const known = Object.keys(specSchema.shape);
  const keys = Object.keys(section);
  // The short form: { learning_rate: [1e-4, 2e-4], r: [8, 16] }.
  const isShort = keys.length > 0 && !keys.some((key) => known.includes(camelCase(key)));
  try {
    return parseOptions(`${where}: sweep`, specSchema, isShort ? { parameters: section } : section);
  } catch (error) {
    throw error instanceof OptionError ? new UsageError(error.message) : error;
  }
}

/** "learning_rate=1e-4,2e-4" as a name and its values. */
function gridFlag(text: string): [string, unknown[]] {
  const equals = text.indexOf("=");
  const [name, list] = [text.slice(0, equals).trim(), text.slice(equals + 1)];
  if (equals < 1) throw new UsageError(`--grid: expected name=value,value…, found "${text}"`);
  try {
    return [name, parse(`[${list}]`) as unknown[]];
  } catch (error) {
    throw new UsageError(`--grid ${name}: ${reason(error)}`);
  }
}

function product(parameters: Readonly<Record<string, readonly unknown[]>>, where: string): Record<string, unknown>[] {
  let combinations: Record<string, unknown>[] = [{}];
  for (const [name, values] of Object.entries(parameters)) {
    combinations = combinations.flatMap((options) => values.map((value) => ({ ...options, [name]: value })));
    if (combinations.length > MANY) throw new UsageError(`${where}: more than ${MANY} runs`);
  }
  return combinations;
}

/** "learning_rate=0.0001 r=8". */
export function label(run: Given): string {
  return [...run.values()].map(({ name, value }) => `${snake(name)}=${shown(value)}`).join(" ");
}

/** A value in few characters. */
export function shown(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
