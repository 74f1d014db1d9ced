import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { atomicWriteFile } from "../formats/atomic.ts";
import { FormatError } from "../formats/errors.ts";
import type { LearningRate, LearningRateState } from "../optim/learning-rate.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import { pythonJson } from "../util/python-json.ts";
import { argumentsToJson, countsTokens, type TrainingArguments } from "./arguments.ts";
import type { BatchSource } from "./batches.ts";
import { writeWhole } from "./checkpoint-folders.ts";
import type { LossLog } from "./loss-log.ts";
import { count, parsePythonJson, record } from "./python-json-reader.ts";
import { type CallbackStates, type SavedState, stateFromJson, stateToJson, type TrainerState } from "./state.ts";
import { readTensors, writeTensors } from "./tensor-files.ts";

/** In Hugging Face's layout. */
const STATE = "trainer_state.json";
/** Adam's moments, and the number of updates done. */
const OPTIMIZER = "optimizer.safetensors";
/** What else a training needs to go on as if it had not stopped. */
export const TRAINING = "training_state.json";
/** For people; nothing reads it. */
const ARGUMENTS = "training_args.json";

/** Where a training stands in its data. */
export interface DataPosition {
  readonly epoch: number;
  /** Microbatches of the epoch that have been trained on. */
  readonly microbatches: number;
}

/** Settings that, changed, make a resumed training another one. Compared by name. */
export type Course = Readonly<Record<string, string | number | boolean | null>>;

export interface CheckpointParts {
  readonly args: TrainingArguments;
  readonly state: TrainerState;
  readonly callbacks: CallbackStates;
  readonly optimizer: Optimizer;
  readonly learningRate: LearningRate;
  readonly log: LossLog;
  readonly position: DataPosition;
  readonly course: Course;
  readonly source: BatchSource;
  /** Writes the model, or its adapter, into a folder. */
  readonly saveModel: (folder: string) => Promise<void>;
}

/**
 * Write a checkpoint: the model or adapter, its optimizer, and where training stands. Dropout and noise are drawn from
 * (seed, step) and the data order from (data seed, epoch), so those numbers are all the state that randomness has.
 */
export async function saveCheckpoint(folder: string, parts: CheckpointParts): Promise<void> {
  const { args, state, callbacks, optimizer, learningRate, log, position, course, source, saveModel } = parts;
  await writeWhole(folder, async (partial) => {
    await mkdir(partial, { recursive: true });
    await saveModel(partial);
    if (!args.saveOnlyModel) {
      await writeTensors(join(partial, OPTIMIZER), optimizer.stateTensors(), { step: String(optimizer.step) });
      const training = {
        course,
        data: position,
        num_tokens: state.numInputTokensSeen,
        learning_rate: learningRate.state(),
        log: log.state(),
        ...(optimizer.lossScaler && { loss_scaler: optimizer.lossScaler.state() }),
        ...(source.state && { source: source.state() }),
      };
      await atomicWriteFile(join(partial, TRAINING), `${pythonJson(training)}\n`);
    }
    await atomicWriteFile(join(partial, ARGUMENTS), argumentsToJson(args));
    await atomicWriteFile(join(partial, STATE), stateToJson(state, callbacks, countsTokens(args)));
  });
}

export interface ResumedCheckpoint {
  readonly saved: SavedState & Pick<TrainerState, "numInputTokensSeen">;
  readonly position: DataPosition;
  /** The settings it was trained with. */
  readonly course: Course;
}

/**
 * Read what a training goes on from into model, optimizer, learning rate and log. Throws FormatError naming the file
 * that is missing or wrong.
 */
export async function loadCheckpoint(
  folder: string,
  into: Pick<CheckpointParts, "optimizer" | "learningRate" | "log" | "source"> & {
    loadModel: (folder: string) => Promise<void>;
  },
): Promise<ResumedCheckpoint> {
  const saved = await readState(folder);
  const file = join(folder, TRAINING);
  if (!existsSync(file)) {
    const found = "no such file: it was saved with saveOnlyModel, or by another library";
    throw new FormatError({ file, field: "file", found, expected: "a checkpoint that training can go on from" });
  }
  const training = parsePythonJson(await readFile(file, "utf8"), file);
  const data = record(training, "data", file);
  const position = { epoch: count(data, "epoch", file), microbatches: count(data, "microbatches", file) };
  const metadata = await readTensors(join(folder, OPTIMIZER), into.optimizer.stateTensors());
  const step = Number(metadata.get("step") ?? Number.NaN);
  if (!Number.isInteger(step) || step < 0) {
    const found = String(metadata.get("step"));
    throw new FormatError({ file: join(folder, OPTIMIZER), field: "metadata step", found, expected: "a number" });
  }
  await into.loadModel(folder);
  into.optimizer.step = step;
  into.learningRate.restore(record(training, "learning_rate", file) as unknown as LearningRateState);
  into.log.restore(record(training, "log", file), file);
  const { lossScaler } = into.optimizer;
  // A training that was saved without one begins with a fresh scale.
  if (lossScaler && "loss_scaler" in training) {
    lossScaler.restore(record(training, "loss_scaler", file), file);
  }
  if (into.source.restore) into.source.restore(training.source, file);
  return {
    saved: { ...saved, numInputTokensSeen: count(training, "num_tokens", file) },
    position,
    course: record(training, "course", file) as Course,
  };
}

async function readState(folder: string): Promise<SavedState> {
  const file = join(folder, STATE);
  if (!existsSync(file)) {
    const found = existsSync(folder) ? "no such file" : "no such folder";
    throw new FormatError({ file, field: "file", found, expected: "the folder of a checkpoint" });
  }
  return stateFromJson(await readFile(file, "utf8"), file);
}

/** Settings that differ, in words; empty when none do. */
export function courseChanges(before: Course, now: Course): string[] {
  return Object.keys(now)
    .filter((name) => name in before && before[name] !== now[name])
    .map((name) => `${name} was ${JSON.stringify(before[name])} and is ${JSON.stringify(now[name])}`);
}
