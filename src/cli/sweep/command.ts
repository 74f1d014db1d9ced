import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { atomicWriteFile } from "../../formats/atomic.ts";
import { reason } from "../../formats/errors.ts";
import { getLastCheckpoint } from "../../train/checkpoint-folders.ts";
import { TrainingInterrupted } from "../../train/interrupt.ts";
import { CliCommand } from "../command.ts";
import { SilentExit } from "../exit.ts";
import type { CliMethod } from "../methods/method.ts";
import { runMethod } from "../methods/run.ts";
import { type ConfigEntry, readConfigFile } from "../settings/config-file.ts";
import { withPlaces } from "../settings/placed-errors.ts";
import type { SettingsTable } from "../settings/table.ts";
import {
  type Given,
  type MethodSettings,
  methodSettings,
  TRAIN_TABLE,
  type TrainSettings,
  trainingTable,
  trainSettings,
} from "../settings/train-settings.ts";
import { note, print } from "../terminal.ts";
import { runTraining, type TrainingMetrics, type TrainingOutput, trainingOutput } from "../training.ts";
import { bestRun, type Ranking, type RunResult, resultTable } from "./results.ts";
import { label, sweepSpec } from "./spec.ts";
import { readRun, runId, writeRun } from "./store.ts";

/** How one of a sweep's trainings is done. */
interface SweptTraining {
  readonly table: SettingsTable;
  readonly settings: (given: Given) => MethodSettings | TrainSettings;
  readonly train: (
    given: Given,
    outputDir: string,
    resume: string | false,
    out: TrainingOutput,
  ) => Promise<TrainingMetrics>;
  /** null: supervised fine-tuning. */
  readonly method: CliMethod | null;
}

/** `unsloth sweep`: the same training with different options, one after another; `unsloth sweep dpo` and its like. */
export function sweepCommand(methods: readonly CliMethod[]): CliCommand {
  const command = define(new CliCommand("sweep"), {
    table: TRAIN_TABLE,
    settings: trainSettings,
    train: (given, outputDir, resume, out) => runTraining(placed(trainSettings(given), outputDir, resume), out),
    method: null,
  });
  // Flags after a method's name are that method's.
  command.enablePositionalOptions();
  for (const method of methods) {
    const table = trainingTable(method);
    const settings = (given: Given): MethodSettings => methodSettings(given, method, table);
    const swept: SweptTraining = {
      table,
      settings,
      train: (given, outputDir, resume, out) => runMethod(method, placed(settings(given), outputDir, resume), out),
      method,
    };
    command.addCommand(define(new CliCommand(method.name), swept));
  }
  return command;
}

/** Settings of one run: its own folder, and where it goes on from. */
const placed = <S extends MethodSettings | TrainSettings>(
  settings: S,
  outputDir: string,
  resume: string | false,
): S => ({
  ...settings,
  args: { ...settings.args, outputDir },
  run: { ...settings.run, resume },
});

function define(command: CliCommand, training: SweptTraining): CliCommand {
  const { method, table } = training;
  const name = method ? `sweep ${method.name}` : "sweep";
  const [grid, parameters, metric] = method
    ? ["--grid beta=0.05,0.1", "beta: [0.05, 0.1]", defaultMetrics(method).join(", else ")]
    : ["--grid learning_rate=1e-4,2e-4 --grid r=8,16", "learning_rate: [1e-4, 2e-4]", "eval_loss, else train_loss"];
  command
    .description(
      `${method ? `${method.name}: train` : "train"} with every combination (or a list) of options and compare`,
    )
    .argument("[config]", `YAML file as for ${method?.name ?? "train"}, with a "sweep" section`)
    .option("--grid <name=a,b,…>", "values of an option to try; may be given again", collect, [])
    .option("--json", "JSON lines: log rows as they come, then the results")
    .addHelpText(
      "after",
      `
Examples:
  unsloth ${name} config.yaml
  unsloth ${name} config.yaml ${grid}

In the file:
  sweep:
    parameters: { ${parameters}, r: [8, 16] }   # every combination
    metric: eval_loss${" ".repeat(24)}# default: ${metric}
or
  sweep:
    runs: [ { learning_rate: 1e-4, r: 8 }, { learning_rate: 2e-4, r: 16 } ]

Each run has a folder below --output. Run the command again to go on: finished runs are skipped.`,
    );
  table.addFlags(command);
  return command.action((configFile: string | undefined, flags: SweepFlags) =>
    runSweep(training, configFile, flags),
  ) as CliCommand;
}

/** What tells the best run where the file does not say: with rows held out, and without. */
const defaultMetrics = (method: CliMethod | null): readonly [string, string] =>
  method?.sweepMetrics ?? ["eval_loss", "train_loss"];

const collect = (value: string, before: readonly string[]): string[] => [...before, value];

interface SweepFlags extends Readonly<Record<string, unknown>> {
  readonly grid: readonly string[];
  readonly json?: boolean;
}

async function runSweep(training: SweptTraining, configFile: string | undefined, flags: SweepFlags): Promise<void> {
  const { table, method, settings } = training;
  const entries = configFile === undefined ? [] : readConfigFile(configFile, table.isSection);
  const isSweep = ({ key, section }: ConfigEntry): boolean => key === "sweep" && section === null;
  const section = entries.find(isSweep);
  const base: Given = new Map([
    ...table.fromFile(entries.filter((entry) => !isSweep(entry))),
    ...table.fromFlags(flags),
  ]);
  const spec = sweepSpec(section?.value, section?.where ?? configFile ?? "--grid", flags.grid, table);
  const { outputDir } = settings(base).args;
  await mkdir(outputDir, { recursive: true });
  const results: RunResult[] = [];
  for (const [index, options] of spec.runs.entries()) {
    note(`run ${index + 1} of ${spec.runs.length}: ${label(options)}`);
    const given = new Map([...base, ...options]);
    results.push(await oneRun(training, given, options, outputDir, flags.json ? index + 1 : null));
  }
  const [held, otherwise] = defaultMetrics(method);
  const metric = spec.metric ?? (results.some(({ metrics }) => metrics?.[held] !== undefined) ? held : otherwise);
  const ranking = { metric, greaterIsBetter: spec.greaterIsBetter ?? !metric.endsWith("loss") };
  await atomicWriteFile(join(outputDir, "sweep.json"), `${JSON.stringify(summary(results, ranking), null, 2)}\n`);
  if (flags.json) print(JSON.stringify({ event: "results", ...summary(results, ranking) }));
  else for (const line of resultTable(results, ranking)) print(line);
  if (results.some(({ error }) => error !== null)) throw new SilentExit(1);
}

/** One run, or what it gave when it finished before. A failure is a result; an interruption is not. */
async function oneRun(
  { train, method }: SweptTraining,
  given: Given,
  options: Given,
  outputDir: string,
  jsonRun: number | null,
): Promise<RunResult> {
  const id = runId(given, method?.name);
  const folder = join(outputDir, id);
  const done = readRun(folder);
  if (done) {
    note(`${id} finished before: skipped`);
    return { id, folder, options, metrics: done.metrics, error: null };
  }
  const checkpoint = await getLastCheckpoint(folder);
  if (checkpoint) note(`${id} goes on from ${checkpoint}`);
  const out = trainingOutput(jsonRun !== null, { run: jsonRun });
  try {
    const metrics = await withPlaces(given, () => train(given, folder, checkpoint ?? false, out));
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
