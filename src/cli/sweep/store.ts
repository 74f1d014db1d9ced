import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { atomicWriteFile } from "../../formats/atomic.ts";
import type { Given } from "../settings/train-settings.ts";
import type { TrainingMetrics } from "../training.ts";

/** A finished run. */
export interface RunRecord {
  readonly options: Readonly<Record<string, unknown>>;
  readonly metrics: TrainingMetrics;
}

const FILE = "sweep-run.json";
/** Where a run writes and how it goes on do not make it another run. */
const NOT_PART = ["output", "resume", "threads", "disableTqdm", "logLevel", "reportTo", "runName", "loggingDir"];

/**
 * A run's folder name, made of everything that its result depends on: a changed option or file makes it another run. Of
 * files (data, models, modules of reward functions) the size and time of change count.
 * @param method null: supervised fine-tuning
 */
export function runId(given: Given, method: string | null = null): string {
  const options = [...given.values()]
    .filter(({ name }) => !NOT_PART.includes(name))
    .map(({ name, value }): [string, unknown] => [name, value])
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const files = ["data", "evalData", "model", "adapter", "rewardFuncs"].flatMap((name) => given.get(name)?.value ?? []);
  const stamps = files.map((file) => fingerprint(String(file).replace(/#[^#/]*$/, "")));
  const digest = createHash("sha256")
    .update(JSON.stringify([...(method === null ? [] : [method]), options, stamps]))
    .digest("hex");
  return `run-${digest.slice(0, 8)}`;
}

function fingerprint(path: string): string {
  if (!existsSync(path)) return "";
  const { size, mtimeMs } = statSync(path);
  return `${size}:${mtimeMs}`;
}

/** What a finished run left; null when it has not finished, or what it left cannot be read. */
export function readRun(folder: string): RunRecord | null {
  try {
    const record = JSON.parse(readFileSync(join(folder, FILE), "utf8")) as RunRecord;
    return typeof record?.metrics === "object" && record.metrics !== null ? record : null;
  } catch {
    return null;
  }
}

/** Marks a run as finished; whole, or not at all. */
export async function writeRun(folder: string, record: RunRecord): Promise<void> {
  await mkdir(folder, { recursive: true });
  await atomicWriteFile(join(folder, FILE), `${JSON.stringify(record, null, 2)}\n`);
}
