import { FastLanguageModel } from "../api/fast-language-model.ts";
import { locateModel } from "../api/locate.ts";
import type { CausalLM } from "../models/model.ts";
import { PeftModel } from "../peft/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { TrainingArguments } from "../train/arguments.ts";
import type { TrainerCallback } from "../train/callbacks.ts";
import { EarlyStoppingCallback } from "../train/early-stopping.ts";
import { SFTTrainer } from "../train/sft.ts";
import { UsageError } from "./exit.ts";
import { loadingLine } from "./loading.ts";
import { required, type TrainSettings } from "./settings/train-settings.ts";
import { formatBytes } from "./terminal.ts";
import { openTrainingData, type TrainingData } from "./training-data.ts";

/** Where a training tells how it goes. */
export interface TrainingOutput {
  /** A line for people. */
  readonly note: (line: string) => void;
  /** Rows for machines; with it the trainer prints nothing. */
  readonly event?: ((row: Readonly<Record<string, unknown>>) => void) | undefined;
}

/** What a training came to, in the trainer's keys: train_loss, train_runtime, eval_loss … */
export type TrainingMetrics = Readonly<Record<string, number>>;

/** Trains as the settings say: loads, reports on data and memory, evaluates before and after, saves. */
export async function runTraining(settings: TrainSettings, out: TrainingOutput): Promise<TrainingMetrics> {
  const name = required(settings.model.model, "model", "PATH");
  const opened = await openTrainingData(settings);
  const { lm, model, tokenizer } = await loadForTraining(name, settings, out.note);
  try {
    const data = await opened.ready(tokenizer, lm.maxSeqLength!, out.note);
    out.note(`${name} on ${lm.backend.description}, weights ${formatBytes(lm.parameterBytes)}`);
    for (const warning of [...lm.warnings, ...("warnings" in model ? model.warnings : [])])
      out.note(`note: ${warning}`);
    if (model instanceof PeftModel) model.printTrainableParameters(out.note);
    using trainer = makeTrainer(settings, { model, tokenizer, ...data }, out);
    return await fit(trainer, settings, out);
  } finally {
    lm.backend.dispose();
  }
}

interface TrainingModel {
  readonly lm: CausalLM;
  readonly model: PeftModel | CausalLM;
  readonly tokenizer: Tokenizer;
}

async function loadForTraining(
  name: string,
  { model, lora, sft }: TrainSettings,
  onDevice: (line: string) => void,
): Promise<TrainingModel> {
  const { revision, fullFinetuning, loadIn4bit, loadIn8bit, loadIn16bit, dtype, device, fp8, threads } = model;
  const { model: loaded, tokenizer } = await FastLanguageModel.fromPretrained({
    modelName: name,
    fullFinetuning,
    loadIn4bit,
    loadIn8bit,
    loadIn16bit,
    dtype,
    device,
    fp8,
    threads,
    revision,
    onDevice,
    ...(typeof sft.maxSeqLength === "number" && { maxSeqLength: sft.maxSeqLength }),
    onProgress: loadingLine(name),
  });
  const own = loaded instanceof PeftModel ? (loaded as PeftModel) : null;
  const lm = own?.model ?? loaded;
  try {
    return { lm, tokenizer, model: own ?? (await adapt(lm, { model, lora })) };
  } catch (error) {
    lm.backend.dispose();
    throw error;
  }
}

/** The model with what is to be trained: a new adapter, one that is there already, or itself. */
export async function adapt(
  lm: CausalLM,
  { model, lora }: Pick<TrainSettings, "model" | "lora">,
): Promise<PeftModel | CausalLM> {
  const { useGradientCheckpointing, ...config } = lora;
  const [option] = Object.keys(config);
  if (model.fullFinetuning) {
    if (model.adapter !== null) throw new UsageError("fullFinetuning trains all weights: leave the adapter out");
    if (option) throw new UsageError(`fullFinetuning trains all weights: leave ${option} out`);
    return lm;
  }
  if (model.adapter === null) return FastLanguageModel.getPeftModel(lm, lora);
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
  const callbacks: TrainerCallback[] = [];
  if (run.earlyStoppingPatience !== null) {
    callbacks.push(new EarlyStoppingCallback({ earlyStoppingPatience: run.earlyStoppingPatience }));
  }
  if (event) {
    callbacks.push({ onLog: ({ state }, row) => event({ event: "log", step: state.globalStep, ...row }) });
  }
  const quiet = event ? { logLevel: "error" } : {};
  return new SFTTrainer({ ...sft, ...parts, args: new TrainingArguments({ ...args, ...quiet }), callbacks });
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

/** Tokens of the largest microbatch among the first epoch's first ones. */
export async function largestMicrobatch({ options, args }: SFTTrainer, limit = LOOKED_AT): Promise<number> {
  let largest = 0;
  let seen = 0;
  for await (const { inputIds } of options.train.batches(0, args.perDeviceTrainBatchSize)) {
    largest = Math.max(largest, inputIds.length);
    if (++seen >= limit) break;
  }
  return largest;
}

/** Memory of the steps to come, planned before the first one. */
async function stepMemory(trainer: SFTTrainer) {
  const tokens = await largestMicrobatch(trainer);
  const { arenaBytes: activations } = trainer.runner.program("train", tokens);
  const { weight, adapter, gradient, optimizer } = trainer.runner.memory().tensors;
  const bytes = { weights: weight, adapter, gradients: gradient, optimizer, activations };
  const parts = Object.entries(bytes).filter(([, size]) => size > 0);
  const total = parts.reduce((sum, [, size]) => sum + size, 0);
  const shown = parts.map(([name, size]) => `${name} ${formatBytes(size)}`).join(", ");
  return { text: `memory: ${formatBytes(total)} (${shown} for ${tokens} tokens)`, bytes };
}
