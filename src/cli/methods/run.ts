import { PeftModel } from "../../peft/index.ts";
import type { TrainerCallback } from "../../train/callbacks.ts";
import { EarlyStoppingCallback } from "../../train/early-stopping.ts";
import type { Trainer } from "../../train/trainer.ts";
import { loadRows } from "../data-source.ts";
import { UsageError } from "../exit.ts";
import { type MethodSettings, required } from "../settings/train-settings.ts";
import { describeModel, loadForTraining, stepMemory, type TrainingMetrics, type TrainingOutput } from "../training.ts";
import type { CliMethod } from "./method.ts";

/** Trains by a method as the settings say: loads, evaluates before and after where rows are held out, saves. */
export async function runMethod(
  method: CliMethod,
  settings: MethodSettings,
  out: TrainingOutput,
): Promise<TrainingMetrics> {
  const name = required(settings.model.model, "model", "PATH");
  const { data, run, args } = settings;
  if (data.streaming) throw new UsageError(`streaming: ${method.name} keeps its rows in memory; leave it out`);
  const rows = await methodRows(settings);
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
    const quiet = out.event ? { logLevel: "error" } : {};
    const isOwn = (key: string): boolean => method.ownSettings?.includes(key) ?? false;
    const pick = (own: boolean) =>
      Object.fromEntries(Object.entries(settings.method).filter(([key]) => isOwn(key) === own));
    using trainer = await method.trainer({
      model,
      tokenizer,
      ...rows,
      callbacks: callbacksOf(run.earlyStoppingPatience, out),
      options: { ...args, ...quiet, ...pick(false) },
      own: pick(true),
    });
    return await fit(method, trainer, settings, out);
  } finally {
    if (model instanceof PeftModel) model.dispose();
    lm.backend.dispose();
  }
}

async function methodRows({ data, args }: MethodSettings) {
  const source = required(data.data, "data", "FILE");
  const all = await loadRows(source, data.split);
  const from = data.evalData ?? (data.evalSplit === undefined ? null : source);
  if (from !== null) return { trainDataset: all, evalDataset: await loadRows(from, data.evalSplit) };
  if (data.evalSize === null) return { trainDataset: all, evalDataset: undefined };
  const { train, test } = all.trainTestSplit({ testSize: data.evalSize, seed: args.seed as number });
  return { trainDataset: train, evalDataset: test };
}

function callbacksOf(patience: number | null, { event }: TrainingOutput): TrainerCallback[] {
  const callbacks: TrainerCallback[] = [];
  if (patience !== null) callbacks.push(new EarlyStoppingCallback({ earlyStoppingPatience: patience }));
  if (event) callbacks.push({ onLog: ({ state }, row) => event({ event: "log", step: state.globalStep, ...row }) });
  return callbacks;
}

async function fit(
  method: CliMethod,
  trainer: Trainer,
  { model, run, args }: MethodSettings,
  out: TrainingOutput,
): Promise<TrainingMetrics> {
  for (const line of reportLines(trainer)) out.note(line);
  // What generates its batches cannot be looked at before it runs.
  const memory = trainer.options.train.seeks ? null : await stepMemory(trainer);
  if (memory) out.note(memory.text);
  const { maxSteps } = trainer.state;
  const rows = trainer.options.train.length;
  out.event?.({ event: "start", method: method.name, model: model.model, maxSteps, rows, ...memory?.bytes });
  const evaluate = async (when: string): Promise<TrainingMetrics> => {
    if (trainer.options.evaluation === undefined) return {};
    const metrics = (await trainer.evaluate()) as TrainingMetrics;
    const shown = method.evalMetrics.filter((key) => metrics[key] !== undefined);
    out.note(`${when}: ${shown.map((key) => `${key} ${metrics[key]!.toFixed(4)}`).join(", ")}`);
    return metrics;
  };
  if (!run.resume) await evaluate("before");
  const { metrics } = await trainer.train({ resumeFromCheckpoint: run.resume });
  const after = await evaluate("after");
  await trainer.saveModel(args.outputDir);
  out.note(`saved to ${args.outputDir}`);
  const result = { ...(metrics as TrainingMetrics), ...after };
  out.event?.({ event: "end", output: args.outputDir, ...result });
  return result;
}

/** What became of the rows, for people: the counts of the trainer's report that are not zero. */
function reportLines(trainer: Trainer): string[] {
  if (!("dataReport" in trainer)) return [`${trainer.options.train.length} rows`];
  const counts = Object.entries(trainer.dataReport as Readonly<Record<string, unknown>>).flatMap(([key, value]) => {
    if (typeof value === "number") return [[key, value] as const];
    if (value === null || typeof value !== "object" || Array.isArray(value)) return [];
    return Object.entries(value).map(([inner, count]) => [`${key} (${inner})`, Number(count)] as const);
  });
  const words = (key: string): string => key.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  return [counts.flatMap(([key, count]) => (count > 0 ? [`${words(key)} ${count}`] : [])).join(", ")];
}
