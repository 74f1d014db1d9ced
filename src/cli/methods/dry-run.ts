import { fixedBytes, hostBytes } from "../../api/plan-training.ts";
import type { Batch } from "../../data/collate.ts";
import type { Program } from "../../graph/program.ts";
import { numel } from "../../graph/types.ts";
import { formatCount } from "../../models/describe.ts";
import { FrozenAdapter, type PeftModel } from "../../peft/index.ts";
import type { Trainer } from "../../train/trainer.ts";
import { stepLines, stepsOf, trainingModes } from "../dry-run.ts";
import { fixedLines, modeLines, modesJson } from "../plan-report.ts";
import { type MethodSettings, required } from "../settings/train-settings.ts";
import { openSketch } from "../sketch.ts";
import { formatBytes, print, table } from "../terminal.ts";
import { largestMicrobatch } from "../training.ts";
import type { CliMethod } from "./method.ts";
import { methodRows, reportLines, trainerOptions } from "./run.ts";

/** Prints what a training by a method would do and need: its data prepared for real, its memory planned, no weight loaded. */
export async function methodDryRun(method: CliMethod, settings: MethodSettings, json: boolean): Promise<void> {
  const name = required(settings.model.model, "model", "PATH");
  const rows = await methodRows(method, settings);
  const { maxLength } = settings.method;
  using sketch = await openSketch(name, settings, typeof maxLength === "number" ? maxLength : 2048);
  const { lm, tokenizer, memory } = sketch;
  if (!settings.model.fullFinetuning) method.prepare?.(lm);
  const model = await sketch.adapted(method.adapterDefaults);
  const parts = { model, tokenizer, ...rows };
  using trainer = await method.trainer({ ...parts, callbacks: [], ...trainerOptions(method, settings, true) });
  // What training would take before its first step, if the adapter has an effect; which a sketch cannot tell.
  const copies = sketch.continues && (method.copiesAdapter?.(trainer.args) ?? false);
  if (copies) await FrozenAdapter.of((model as PeftModel).adapter);
  const rollouts = method.rollouts?.({ trainer, ...parts }) ?? null;
  const batches: Readonly<Record<string, Batch>> = rollouts?.training ?? {
    update: await largestMicrobatch(trainer, Number.POSITIVE_INFINITY),
  };
  const programs = rollouts?.programs(lm) ?? {};
  const { cache } = lm.backend.memory().tensors;
  const fixed = { ...fixedBytes(lm, trainer.options.maxPositions), cache };
  const host = hostBytes(lm);
  const plans = Object.entries(batches).map(([key, batch]) => ({
    name: `${key}, ${batch.inputIds.length} tokens`,
    modes: trainingModes(trainer, batch, fixed, memory),
  }));
  const steps = stepsOf(trainer, rows.evalDataset?.length ?? 0);
  const report = "dataReport" in trainer ? { dataReport: trainer.dataReport } : {};
  if (json) {
    const shapes = Object.fromEntries(plans.map((plan) => [plan.name, modesJson(plan.modes)]));
    const others = Object.fromEntries(Object.entries(programs).map(([key, { arenaBytes }]) => [key, arenaBytes]));
    const memoryPlan = { memory, fixed, host, update: shapes, generation: others };
    return print(
      JSON.stringify({ method: method.name, ...steps, ...report, ...rollouts?.counts, ...memoryPlan }, null, 2),
    );
  }
  const trained = trainer.optimizer.trainables.reduce((sum, { tensor }) => sum + numel(tensor.shape), 0);
  const lines = [
    `${name}: ${lm.config.family}, ${lm.config.layers} layers; ${formatCount(trained)} numbers trained`,
    ...(copies ? ["the reference is the adapter as it is now, of which memory holds a copy"] : []),
    ...(rollouts?.lines ?? reportLines(trainer)),
    ...(rollouts ? rolloutSteps(trainer) : stepLines(steps)),
    "",
    ...fixedLines(fixed, host),
    ...plans.flatMap((plan) => ["", `largest microbatch: ${plan.name}`, ...modeLines({ modes: plan.modes, memory })]),
    ...programLines(programs),
    "",
    "dry run: nothing was trained",
  ];
  for (const line of lines) print(line);
}

/** A step of PPO has microbatches of all its updates, so rows are no measure. */
function rolloutSteps({ steps: { maxSteps, stepsPerEpoch, numTrainEpochs } }: Trainer): string[] {
  return [`${maxSteps} steps, ${stepsPerEpoch} an epoch (${numTrainEpochs} epochs begun)`];
}

function programLines(programs: Readonly<Record<string, Program>>): string[] {
  const rows = Object.entries(programs).map(([name, { arenaBytes }]) => [name, formatBytes(arenaBytes)]);
  return rows.length > 0 ? ["", ...table([["between updates, with the same memory", "activations"], ...rows])] : [];
}
