import { FastLanguageModel } from "../api/fast-language-model.ts";
import { locateModel } from "../api/locate.ts";
import type { Batch } from "../data/collate.ts";
import type { Program } from "../graph/program.ts";
import type { CausalLM } from "../models/model.ts";
import { PeftModel } from "../peft/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { TrainingArguments } from "../train/arguments.ts";
import type { TrainerCallback } from "../train/callbacks.ts";
import { EarlyStoppingCallback } from "../train/early-stopping.ts";
import { PreferenceTrainer } from "../train/preference/trainer.ts";
import { SFTTrainer } from "../train/sft.ts";
import type { Trainer } from "../train/trainer.ts";
import { UsageError } from "./exit.ts";
import { loadingLine } from "./loading.ts";
import { required, type TrainSettings } from "./settings/train-settings.ts";
import { formatBytes, note, print } from "./terminal.ts";
import { openTrainingData, type TrainingData } from "./training-data.ts";

/** Where a training tells how it goes. */
export interface TrainingOutput {
  /** A line for people. */
  readonly note: (line: string) => void;
  /** Rows for machines; with it the trainer prints nothing. */
  readonly event?: ((row: Readonly<Record<string, unknown>>) => void) | undefined;
}

/** Lines for people on standard error, or with `json` rows for machines on standard output, which begin with `about`. */
export function trainingOutput(json: boolean, about: object = {}): TrainingOutput {
  return json ? { note: () => undefined, event: (row) => print(JSON.stringify({ ...about, ...row })) } : { note };
}

/** What a training came to, in the trainer's keys: train_loss, train_runtime, eval_loss … */
export type TrainingMetrics = Readonly<Record<string, number>>;

/** Trains as the settings say: loads, reports on data and memory, evaluates before and after, saves. */
export async function runTraining(settings: TrainSettings, out: TrainingOutput): Promise<TrainingMetrics> {
  const name = required(settings.model.model, "model", "PATH");
  const opened = await openTrainingData(settings);
  const { maxSeqLength } = settings.sft;
  const { lm, model, tokenizer } = await loadForTraining(name, {
    ...settings,
    maxSeqLength: typeof maxSeqLength === "number" ? maxSeqLength : null,
    onDevice: out.note,
  });
  try {
    const data = await opened.ready(tokenizer, lm.maxSeqLength!, out.note);
    describeModel(name, { lm, model }, out.note);
    using trainer = makeTrainer(settings, { model, tokenizer, ...data }, out);
    return await fit(trainer, settings, out);
  } finally {
    lm.backend.dispose();
  }
}

/** What was loaded, for people. */
export function describeModel(
  name: string,
  { lm, model }: Pick<TrainingModel, "lm" | "model">,
  note: (line: string) => void,
): void {
  note(`${name} on ${lm.backend.description}, weights ${formatBytes(lm.parameterBytes)}`);
  for (const warning of [...lm.warnings, ...("warnings" in model ? model.warnings : [])]) note(`note: ${warning}`);
  if (model instanceof PeftModel) model.printTrainableParameters(note);
}

/** A model, what of it is trained, and its tokenizer. */
export interface TrainingModel {
  readonly lm: CausalLM;
  readonly model: PeftModel | CausalLM;
  readonly tokenizer: Tokenizer;
}

export interface LoadForTraining extends Pick<TrainSettings, "model" | "lora"> {
  /** null: the model's own. */
  readonly maxSeqLength: number | null;
  readonly onDevice: (line: string) => void;
  /** What the model needs before an adapter is put on it: a score head. */
  readonly prepare?: ((lm: CausalLM) => void) | undefined;
  /** Adapter settings of the method, where the user gave none. */
  readonly adapterDefaults?: Readonly<Record<string, unknown>> | undefined;
}

/** Loads a model and puts on it what is to be trained. The caller disposes of its backend. */
export async function loadForTraining(name: string, options: LoadForTraining): Promise<TrainingModel> {
  const { model, lora, maxSeqLength, onDevice, prepare, adapterDefaults = {} } = options;
  const { model: _, adapter: __, ...loading } = model;
  const { model: loaded, tokenizer } = await FastLanguageModel.fromPretrained({
    ...loading,
    modelName: name,
    onDevice,
    ...(maxSeqLength !== null && { maxSeqLength }),
    onProgress: loadingLine(name),
  });
  const own = loaded instanceof PeftModel ? (loaded as PeftModel) : null;
  const lm = own?.model ?? loaded;
  try {
    prepare?.(lm);
    return { lm, tokenizer, model: own ?? (await adapt(lm, { model, lora }, adapterDefaults)) };
  } catch (error) {
    lm.backend.dispose();
    throw error;
  }
}

/** The model with what is to be trained: a new adapter, one that is there already, or itself. */
export async function adapt(
  lm: CausalLM,
  { model, lora }: Pick<TrainSettings, "model" | "lora">,
  defaults: Readonly<Record<string, unknown>> = {},
): Promise<PeftModel | CausalLM> {
  const { useGradientCheckpointing, ...config } = lora;
  const [option] = Object.keys(config);
  if (model.fullFinetuning) {
    if (model.adapter !== null) throw new UsageError("fullFinetuning trains all weights: leave the adapter out");
    if (option) throw new UsageError(`fullFinetuning trains all weights: leave ${option} out`);
    return lm;
  }
  if (model.adapter === null) return FastLanguageModel.getPeftModel(lm, { ...defaults, ...lora });
  if (option) throw new UsageError(`the adapter ${model.adapter} has its own configuration: leave ${option} out`);
  const { path } = await locateModel(model.adapter);
  return PeftModel.fromPretrained(lm, path, {
    isTrainable: true,
    ...(useGradientCheckpointing !== undefined && {
      gradientCheckpointing: useGradientCheckpointing as boolean | "unsloth",
    }),
  });
}

/** The trainer of these settings. */
export function makeTrainer(
  { sft, args, run }: TrainSettings,
  parts: TrainingData & Pick<TrainingModel, "model" | "tokenizer">,
  { event }: Pick<TrainingOutput, "event">,
): SFTTrainer {
  const callbacks = trainingCallbacks(run.earlyStoppingPatience, { event });
  const quiet = event ? { logLevel: "error" } : {};
  return new SFTTrainer({ ...sft, ...parts, args: new TrainingArguments({ ...args, ...quiet }), callbacks });
}

/** What stops a training early, and what tells machines about it. */
export function trainingCallbacks(
  patience: number | null,
  { event }: Pick<TrainingOutput, "event">,
): TrainerCallback[] {
  const callbacks: TrainerCallback[] = [];
  if (patience !== null) callbacks.push(new EarlyStoppingCallback({ earlyStoppingPatience: patience }));
  if (event) callbacks.push({ onLog: ({ state }, row) => event({ event: "log", step: state.globalStep, ...row }) });
  return callbacks;
}

async function fit(trainer: SFTTrainer, settings: TrainSettings, out: TrainingOutput): Promise<TrainingMetrics> {
  const { outputDir } = settings.args;
  for (const line of dataLines(trainer)) out.note(line);
  const memory = await stepMemory(trainer);
  out.note(memory.text);
  const { maxSteps } = trainer.state;
  out.event?.({
    event: "start",
    model: settings.model.model,
    maxSteps,
    rows: trainer.dataReport.recipe.rows,
    ...memory.bytes,
  });
  const evaluates = trainer.options.evaluation !== undefined;
  if (evaluates && !settings.run.resume)
    out.note(`eval_loss before: ${(await trainer.evaluate()).eval_loss!.toFixed(4)}`);
  const { metrics } = await trainer.train({ resumeFromCheckpoint: settings.run.resume });
  const after = evaluates ? await trainer.evaluate() : {};
  if (after.eval_loss !== undefined) out.note(`eval_loss after: ${after.eval_loss.toFixed(4)}`);
  await trainer.saveModel(outputDir);
  out.note(`saved to ${outputDir}`);
  const result = { ...metrics, ...after };
  out.event?.({ event: "end", output: outputDir, ...result });
  return result;
}

/** What became of the rows, for people. */
export function dataLines({ dataReport: { recipe, packing } }: SFTTrainer): string[] {
  const { rows, tokens, targets, dropped, truncated } = recipe;
  const lines = [`${rows} rows, ${tokens} tokens, ${targets} trained on; ${dropped} dropped, ${truncated} truncated`];
  if (packing) lines.push(`packed into ${packing.packs} rows, ${(100 * packing.efficiency).toFixed(1)}% full`);
  return lines;
}

/** Microbatches looked at to find a large one. */
const LOOKED_AT = 200;

/** The largest microbatch, by tokens, among the first epoch's first ones. */
export async function largestMicrobatch(trainer: Trainer, limit = LOOKED_AT): Promise<Batch> {
  const { options, args } = trainer;
  if (trainer instanceof PreferenceTrainer) trainer.assumeReference();
  let largest: Batch | null = null;
  let seen = 0;
  for await (const batch of options.train.batches(0, args.perDeviceTrainBatchSize)) {
    if (!largest || batch.inputIds.length > largest.inputIds.length) largest = batch;
    if (++seen >= limit) break;
  }
  return largest!;
}

/** Memory of the steps to come, planned for the largest microbatch. */
export async function stepMemory(trainer: Trainer) {
  const batch = await largestMicrobatch(trainer);
  return memoryText(trainer, [trainer.runner.program("train", batch)], batch.inputIds.length);
}

/**
 * Bytes by what they are for, and a line of them, for steps of these programs, which share their memory.
 * @param cache bytes of keys and values
 */
export function memoryText(trainer: Trainer, programs: readonly Program[], tokens: number, cache = 0) {
  const { tensors, host: tables = 0 } = trainer.runner.memory();
  const { weight, adapter, gradient, optimizer } = tensors;
  const activations = Math.max(...programs.map(({ arenaBytes }) => arenaBytes));
  const bytes = { weights: weight, adapter, gradients: gradient, optimizer, activations, cache };
  const host = tables + Math.max(...programs.map(({ hostBytes }) => hostBytes));
  const parts = Object.entries(bytes).filter(([, size]) => size > 0);
  const total = parts.reduce((sum, [, size]) => sum + size, 0);
  const shown = parts.map(([name, size]) => `${name} ${formatBytes(size)}`).join(", ");
  const text = `memory: ${formatBytes(total)} (${shown} for ${tokens} tokens)`;
  return { text: host > 0 ? `${text}; in host memory: ${formatBytes(host)}` : text, bytes: { ...bytes, host } };
}
