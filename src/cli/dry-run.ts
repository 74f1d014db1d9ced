import { fixedBytes, hostBytes, type ModePlan, planModes } from "../api/plan-training.ts";
import type { Batch } from "../data/collate.ts";
import { numel } from "../graph/types.ts";
import { formatCount } from "../models/describe.ts";
import { warmupSteps } from "../optim/schedule.ts";
import { batchShape, planBatch } from "../train/step-programs.ts";
import type { Trainer } from "../train/trainer.ts";
import { fixedLines, modeLines, modesJson } from "./plan-report.ts";
import { required, type TrainSettings } from "./settings/train-settings.ts";
import { openSketch } from "./sketch.ts";
import { note, print } from "./terminal.ts";
import { dataLines, largestMicrobatch, makeTrainer } from "./training.ts";
import { openTrainingData } from "./training-data.ts";

/** Prints what a training would do and need: its data prepared for real, its memory planned, no weight loaded. */
export async function dryRun(settings: TrainSettings, json: boolean): Promise<void> {
  const name = required(settings.model.model, "model", "PATH");
  const opened = await openTrainingData(settings);
  using sketch = await openSketch(name, settings, (settings.sft.maxSeqLength as number | null | undefined) ?? 2048);
  const { lm, tokenizer, memory } = sketch;
  const data = await opened.ready(tokenizer, lm.maxSeqLength!, note);
  const model = await sketch.adapted();
  using trainer = makeTrainer(settings, { model, tokenizer, ...data }, {});
  const batch = await largestMicrobatch(trainer, Number.POSITIVE_INFINITY);
  const tokens = batch.inputIds.length;
  const fixed = fixedBytes(lm, trainer.options.maxPositions);
  const plan = { fixed, host: hostBytes(lm), modes: trainingModes(trainer, batch, fixed, memory), memory };
  const steps = stepsOf(trainer, data.evalDataset?.length ?? 0);
  if (json) return print(JSON.stringify({ ...steps, tokens, ...plan, modes: modesJson(plan.modes) }, null, 2));
  const trained = trainer.optimizer.trainables.reduce((sum, { tensor }) => sum + numel(tensor.shape), 0);
  const lines = [
    `${name}: ${lm.config.family}, ${lm.config.layers} layers; ${formatCount(trained)} numbers trained`,
    ...dataLines(trainer),
    ...stepLines(steps),
    "",
    `largest microbatch of the first epoch: ${tokens} tokens`,
    ...fixedLines(plan.fixed, plan.host),
    "",
    ...modeLines(plan),
    "",
    "dry run: nothing was trained",
  ];
  for (const line of lines) print(line);
}

/** What each way of checkpointing a microbatch needs, beside what stays from step to step. */
export function trainingModes(
  { runner }: Trainer,
  batch: Batch,
  fixed: Readonly<Record<string, number>>,
  memory: number,
): ModePlan[] {
  const together = Object.values(fixed).reduce((sum, bytes) => sum + bytes, 0);
  const shape = batchShape(batch);
  return planModes((policy) => planBatch({ ...runner.options, policy }, "train", shape).program, together, memory);
}

/** How much training there is. */
export function stepsOf({ steps, args, options }: Trainer, evalRows: number) {
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

/** The same, for people. */
export function stepLines(steps: ReturnType<typeof stepsOf>): string[] {
  const { rows, batchSize, gradientAccumulationSteps: size, microbatchesPerEpoch, stepsPerEpoch, epochs } = steps;
  return [
    `${rows} rows in microbatches of ${batchSize}: ${microbatchesPerEpoch} an epoch; ${size} to a step: ${stepsPerEpoch} steps an epoch`,
    `${steps.maxSteps} steps (${epochs} epochs begun), ${steps.warmupSteps} of them warm-up` +
      (steps.evalRows > 0 ? `; ${steps.evalRows} rows held out` : ""),
  ];
}
