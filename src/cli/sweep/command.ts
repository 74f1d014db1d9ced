import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { atomicWriteFile } from "../../formats/atomic.ts";
import { reason } from "../../formats/errors.ts";
import { getLastCheckpoint } from "../../train/checkpoint-folders.ts";
import { TrainingInterrupted } from "../../train/interrupt.ts";
import { CliCommand } from "../command.ts";
import { SilentExit } from "../exit.ts";
import { type ConfigEntry, readConfigFile } from "../settings/config-file.ts";
import { type Given, TRAIN_TABLE, trainSettings } from "../settings/train-settings.ts";
import { note, print } from "../terminal.ts";
import { runTraining } from "../training.ts";
import { bestRun, type Ranking, type RunResult, resultTable } from "./results.ts";
import { label, sweepSpec } from "./spec.ts";
import { readRun, runId, writeRun } from "./store.ts";

/** `unsloth sweep`: the same training with different options, one after another. */
export function sweepCommand(): CliCommand {
  const command = new CliCommand("sweep")
    .description("train with every combination (or a list) of options and compare")
    .argument("[config]", 'YAML file as for train, with a "sweep" section')
    .option("--grid <name=a,b,…>", "values of an option to try; may be given again", collect, [])
    .option("--json", "JSON lines: log rows as they come, then the results")
    .addHelpText(
      "after",
      `
Examples:
  unsloth sweep config.yaml
  unsloth sweep config.yaml --grid learning_rate=1e-4,2e-4 --grid r=8,16

In the file:
  sweep:
    parameters: { learning_rate: [1e-4, 2e-4], r: [8, 16] }   # every combination
    metric: eval_loss                                        # default: eval_loss, else train_loss
or
  sweep:
    runs: [ { learning_rate: 1e-4, r: 8 }, { learning_rate: 2e-4, r: 16 } ]

Each run has a folder below --output. Run the command again to go on: finished runs are skipped.`,
    ) as CliCommand;
  TRAIN_TABLE.addFlags(command);
  return command.action(runSweep) as CliCommand;
}

const collect = (value: string, before: readonly string[]): string[] => [...before, value];

interface SweepFlags extends Readonly<Record<string, unknown>> {
  readonly grid: readonly string[];
  readonly json?: boolean;
}

async function runSweep(configFile: string | undefined, flags: SweepFlags): Promise<void> {
  const entries = configFile === undefined ? [] : readConfigFile(configFile, TRAIN_TABLE.isSection);
  const isSweep = ({ key, section }: ConfigEntry): boolean => key === "sweep" && section === null;
  const section = entries.find(isSweep);
  const spec = sweepSpec(section?.value, section?.where ?? configFile ?? "--grid", flags.grid);
  const base: Given = new Map([
    ...TRAIN_TABLE.fromFile(entries.filter((entry) => !isSweep(entry))),
    ...TRAIN_TABLE.fromFlags(flags),
  ]);
  const { outputDir } = trainSettings(base).args;
  await mkdir(outputDir, { recursive: true });
  const results: RunResult[] = [];
  for (const [index, options] of spec.runs.entries()) {
    note(`run ${index + 1} of ${spec.runs.length}: ${label(options)}`);
    results.push(await oneRun(new Map([...base, ...options]), options, outputDir, flags.json ? index + 1 : null));
  }
  const holdsOut = results.some(({ metrics }) => metrics?.eval_loss !== undefined);
  const ranking = {
    metric: spec.metric ?? (holdsOut ? "eval_loss" : "train_loss"),
    greaterIsBetter: spec.greaterIsBetter,
  };
  await atomicWriteFile(join(outputDir, "sweep.json"), `${JSON.stringify(summary(results, ranking), null, 2)}\n`);
  if (flags.json) print(JSON.stringify({ event: "results", ...summary(results, ranking) }));
  else for (const line of resultTable(results, ranking)) print(line);
  if (results.some(({ error }) => error !== null)) throw new SilentExit(1);
}

/** One run, or what it gave when it finished before. A failure is a result; an interruption is not. */
async function oneRun(given: Given, options: Given, outputDir: string, jsonRun: number | null): Promise<RunResult> {
  const id = runId(given);
  const folder = join(outputDir, id);
  const done = readRun(folder);
  if (done) {
    note(`${id} finished before: skipped`);
    return { id, folder, options, metrics: done.metrics, error: null };
  }
  const settings = trainSettings(given);
  const checkpoint = await getLastCheckpoint(folder);
  if (checkpoint) note(`${id} goes on from ${checkpoint}`);
  const here = {
    ...settings,
    args: { ...settings.args, outputDir: folder },
    run: { ...settings.run, resume: checkpoint ?? false },
  };
  const out =
    jsonRun === null
      ? { note }
      : { note: () => undefined, event: (row: object) => print(JSON.stringify({ run: jsonRun, ...row })) };
  try {
    const metrics = await runTraining(here, out);
    await writeRun(folder, { options: valuesOf(given), metrics });
    return { id, folder, options, metrics, error: null };
  } catch (error) {
    if (error instanceof TrainingInterrupted) throw error;
    note(`${id} failed: ${reason(error)}`);
    return { id, folder, options, metrics: null, error: reason(error) };
  }
}

function summary(results: readonly RunResult[], ranking: Ranking): Record<string, unknown> {
  const runs = results.map(({ options, ...rest }) => ({ ...rest, options: valuesOf(options) }));
  return { ...ranking, best: bestRun(results, ranking)?.folder ?? null, runs };
}

const valuesOf = (given: Given): Record<string, unknown> =>
  Object.fromEntries([...given.values()].map(({ name, value }) => [name, value]));
