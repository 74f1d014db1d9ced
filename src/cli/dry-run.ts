import { storedAs } from "../api/device.ts";
import { loadTokenizer } from "../api/fast-language-model.ts";
import { isAdapterFolder, locateBase, locateModel } from "../api/locate.ts";
import { planStep } from "../api/plan-training.ts";
import { openSketchDevice } from "../api/sketch-device.ts";
import { sketchModel } from "../api/sketch-model.ts";
import { numel } from "../graph/types.ts";
import { formatCount } from "../models/describe.ts";
import { weightOptions } from "../models/load/weight-options.ts";
import { warmupSteps } from "../optim/schedule.ts";
import { PeftModel } from "../peft/index.ts";
import { TOKENIZER_FILES } from "../tokenizer/tokenizer-files.ts";
import type { SFTTrainer } from "../train/sft.ts";
import { fixedLines, modeLines, modesJson } from "./plan-report.ts";
import { required, type TrainSettings } from "./settings/train-settings.ts";
import { note, print } from "./terminal.ts";
import { adapt, dataLines, largestMicrobatch, makeTrainer } from "./training.ts";
import { openTrainingData } from "./training-data.ts";

/** Of a model of the hub: what planning needs, and no weights. */
const FILES = ["config.json", "adapter_config.json", "adapter_model.safetensors", ...TOKENIZER_FILES];

/** Prints what a training would do and need: its data prepared for real, its memory planned, no weight loaded. */
export async function dryRun(settings: TrainSettings, json: boolean): Promise<void> {
  const name = required(settings.model.model, "model", "PATH");
  const opened = await openTrainingData(settings);
  const { revision, dtype } = settings.model;
  const weights = weightOptions("train", settings.model);
  const located = await locateModel(name, { revision, ...(!name.includes(":") && { allowPatterns: FILES }) });
  const adapter = isAdapterFolder(located.path) ? located.path : null;
  const path = adapter ? (await locateBase(adapter)).path : located.path;
  const { backend: place, memory } = await openSketchDevice(settings.model);
  using backend = place;
  const lm = sketchModel(path, backend, { dtype: storedAs(backend, dtype, weights), ...weights });
  lm.maxSeqLength = (settings.sft.maxSeqLength as number | null | undefined) ?? 2048;
  const tokenizer = await loadTokenizer(path);
  const data = await opened.ready(tokenizer, lm.maxSeqLength, note);
  const model = adapter
    ? await PeftModel.fromPretrained(lm, adapter, { isTrainable: true })
    : await adapt(lm, settings);
  using trainer = makeTrainer(settings, { model, tokenizer, ...data }, {});
  const { inputIds } = await largestMicrobatch(trainer, Number.POSITIVE_INFINITY);
  const tokens = inputIds.length;
  const { maxPositions } = trainer.options;
  const plan = { ...planStep(lm, trainer.optimizer, { tokens, maxPositions, memory }), memory };
  const steps = stepsOf(trainer, data.evalDataset?.length ?? 0);
  if (json) return print(JSON.stringify({ ...steps, tokens, ...plan, modes: modesJson(plan.modes) }, null, 2));
  const trained = trainer.optimizer.trainables.reduce((sum, { tensor }) => sum + numel(tensor.shape), 0);
  const lines = [
    `${name}: ${lm.config.family}, ${lm.config.layers} layers; ${formatCount(trained)} numbers trained`,
    ...dataLines(trainer),
    ...stepLines(steps),
    "",
    `largest microbatch of the first epoch: ${tokens} tokens`,
    ...fixedLines(plan.fixed),
    "",
    ...modeLines(plan),
    "",
    "dry run: nothing was trained",
  ];
  for (const line of lines) print(line);
}

function stepsOf({ steps, args, options }: SFTTrainer, evalRows: number) {
  const { microbatchesPerEpoch, stepsPerEpoch, maxSteps, numTrainEpochs } = steps;
  return {
    rows: options.train.length,
    batchSize: args.perDeviceTrainBatchSize,
    gradientAccumulationSteps: args.gradientAccumulationSteps,
    microbatchesPerEpoch,
    stepsPerEpoch,
    epochs: numTrainEpochs,
    maxSteps,
    warmupSteps: warmupSteps(args, maxSteps),
    evalRows,
  };
}

function stepLines(steps: ReturnType<typeof stepsOf>): string[] {
  const { rows, batchSize, gradientAccumulationSteps: size, microbatchesPerEpoch, stepsPerEpoch, epochs } = steps;
  return [
    `${rows} rows in microbatches of ${batchSize}: ${microbatchesPerEpoch} an epoch; ${size} to a step: ${stepsPerEpoch} steps an epoch`,
    `${steps.maxSteps} steps (${epochs} epochs begun), ${steps.warmupSteps} of them warm-up` +
      (steps.evalRows > 0 ? `; ${steps.evalRows} rows held out` : ""),
  ];
}
