import { PeftModel } from "../../peft/index.ts";
import { PreferenceTrainer } from "../../train/preference/trainer.ts";
import { GRPOTrainer } from "../../train/rl/grpo.ts";
import { batchShape, planBatch } from "../../train/step-programs.ts";
import type { Trainer } from "../../train/trainer.ts";
import { loadTrainingRows } from "../data-source.ts";
import { UsageError } from "../exit.ts";
import { type MethodSettings, required } from "../settings/train-settings.ts";
import {
  describeModel,
  loadForTraining,
  memoryText,
  stepMemory,
  type TrainingMetrics,
  type TrainingOutput,
  trainingCallbacks,
} from "../training.ts";
import type { CliMethod, MethodParts } from "./method.ts";
import type { RolloutPlan } from "./rollout-plan.ts";

/** Trains by a method as the settings say: loads, evaluates before and after where rows are held out, saves. */
export async function runMethod(
  method: CliMethod,
  settings: MethodSettings,
  out: TrainingOutput,
): Promise<TrainingMetrics> {
  const name = required(settings.model.model, "model", "PATH");
  const { run } = settings;
  const rows = await methodRows(method, settings);
  const maxLength = settings.method.maxLength;
  const loaded = await loadForTraining(name, {
    ...settings,
    maxSeqLength: typeof maxLength === "number" ? maxLength : null,
    onDevice: out.note,
    prepare: settings.model.fullFinetuning ? undefined : method.prepare,
    adapterDefaults: method.adapterDefaults,
  });
  const { lm, model, tokenizer } = loaded;
  try {
    describeModel(name, loaded, out.note);
    using trainer = await method.trainer({
      model,
      tokenizer,
      ...rows,
      callbacks: trainingCallbacks(run.earlyStoppingPatience, out),
      ...trainerOptions(method, settings, out.event !== undefined),
    });
    const rollouts = method.rollouts?.({ trainer, model, tokenizer, ...rows }) ?? null;
    return await fit({ method, trainer, rollouts }, settings, out);
  } finally {
    if (model instanceof PeftModel) model.dispose();
    lm.backend.dispose();
  }
}

/** The rows to train on, and those held out. */
export async function methodRows(method: CliMethod, settings: MethodSettings) {
  const { data } = settings;
  if (data.streaming) throw new UsageError(`streaming: ${method.name} keeps its rows in memory; leave it out`);
  const rows = await loadTrainingRows(settings);
  if (rows.trainDataset.length > 0) return rows;
  const part = data.split === undefined ? "" : ` (split ${data.split})`;
  throw new UsageError(`data: ${[data.data].flat().join(", ")}${part} has no rows: expected ${method.rows}`);
}

/** Settings as the trainer takes them, and those that are the command's own. */
export function trainerOptions(
  method: CliMethod,
  { args, method: values }: MethodSettings,
  quiet: boolean,
): Pick<MethodParts, "options" | "own"> {
  const isOwn = (key: string): boolean => method.ownSettings?.includes(key) ?? false;
  const pick = (own: boolean) => Object.fromEntries(Object.entries(values).filter(([key]) => isOwn(key) === own));
  return { options: { ...args, ...(quiet && { logLevel: "error" }), ...pick(false) }, own: pick(true) };
}

/** A number over the rows logged in training: its mean for the results, its way for people. */
function trainedMetric({ state }: Trainer, name: string | undefined, note: TrainingOutput["note"]): TrainingMetrics {
  const values = name === undefined ? [] : state.logHistory.flatMap((row) => row[name] ?? []);
  if (values.length === 0) return {};
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  note(`${name}: first ${values[0]!.toFixed(4)}, last ${values.at(-1)!.toFixed(4)}, mean ${mean.toFixed(4)}`);
  return { [`train_${name}`]: mean };
}

interface Prepared {
  readonly method: CliMethod;
  readonly trainer: Trainer;
  readonly rollouts: RolloutPlan | null;
}

async function fit(
  { method, trainer, rollouts }: Prepared,
  { model, run, args }: MethodSettings,
  out: TrainingOutput,
): Promise<TrainingMetrics> {
  for (const line of rollouts?.lines ?? reportLines(trainer)) out.note(line);
  // The adapter that is the reference is copied now, for the memory to be what training takes.
  if (trainer instanceof PreferenceTrainer || trainer instanceof GRPOTrainer) {
    await trainer.beginReference({ resumeFromCheckpoint: run.resume });
  }
  const memory = rollouts ? rolloutMemory(trainer, rollouts) : await stepMemory(trainer);
  out.note(memory.text);
  const { maxSteps } = trainer.state;
  const rows = rollouts?.counts.prompts ?? trainer.options.train.length;
  out.event?.({ event: "start", method: method.name, model: model.model, maxSteps, rows, ...memory.bytes });
  const evaluate = async (when: string): Promise<TrainingMetrics> => {
    if (trainer.options.evaluation === undefined) return {};
    const metrics = (await trainer.evaluate()) as TrainingMetrics;
    const shown = method.evalMetrics.filter((key) => metrics[key] !== undefined);
    out.note(`${when}: ${shown.map((key) => `${key} ${metrics[key]!.toFixed(4)}`).join(", ")}`);
    return metrics;
  };
  if (!run.resume) await evaluate("before");
  const { metrics } = await trainer.train({ resumeFromCheckpoint: run.resume });
  const trained = trainedMetric(trainer, method.trainMetric, out.note);
  const after = await evaluate("after");
  await trainer.saveModel(args.outputDir);
  out.note(`saved to ${args.outputDir}`);
  const result = { ...(metrics as TrainingMetrics), ...trained, ...after };
  out.event?.({ event: "end", output: args.outputDir, ...result });
  return result;
}

/** Places of dropped rows that are named. */
const SHOWN = 5;

/** What became of the rows, for people: the counts of the trainer's report that are not zero. */
export function reportLines(trainer: Trainer): string[] {
  if (!("dataReport" in trainer)) return [`${trainer.options.train.length} rows`];
  const counts = Object.entries(trainer.dataReport as Readonly<Record<string, unknown>>).flatMap(([key, value]) => {
    if (typeof value === "number") return [[key, value] as const];
    if (value === null || typeof value !== "object" || Array.isArray(value)) return [];
    return Object.entries(value).map(([inner, count]) => [`${key} (${inner})`, Number(count)] as const);
  });
  const words = (key: string): string => key.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  const { droppedAt = [] } = trainer.dataReport as { readonly droppedAt?: readonly string[] };
  return [
    counts.flatMap(([key, count]) => (count > 0 ? [`${words(key)} ${count}`] : [])).join(", "),
    ...(droppedAt.length > 0
      ? [`dropped: ${droppedAt.slice(0, SHOWN).join(", ")}${droppedAt.length > SHOWN ? " …" : ""}`]
      : []),
  ];
}

/** Memory of an update and of the completions before it, were all of them as long as they may be. */
function rolloutMemory(trainer: Trainer, { training, cacheBytes }: RolloutPlan) {
  const { options } = trainer.runner;
  const batches = Object.values(training);
  const programs = batches.map((batch) => planBatch(options, "train", batchShape(batch)).program);
  const tokens = Math.max(...batches.map(({ inputIds }) => inputIds.length));
  return memoryText(trainer, programs, tokens, cacheBytes(options.model));
}
