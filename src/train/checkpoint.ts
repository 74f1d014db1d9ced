import { mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { atomicWriteFile } from "../formats/atomic.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import { stateFromJson, stateToJson, type TrainerState } from "./state.ts";
import { readTensors, writeTensors } from "./tensor-files.ts";
import type { TrainableModel } from "./trainable.ts";

interface CheckpointParts {
  readonly model: TrainableModel;
  readonly optimizer: Optimizer;
  readonly state: TrainerState;
}

const STATE = "trainer_state.json";
const OPTIMIZER = "optimizer.safetensors";
/** The trained tensors bit for bit; the adapter files beside it are for everybody else. */
const TRAINED = "trained.safetensors";

/**
 * Write a checkpoint folder. It is built under another name and renamed when complete: a folder called checkpoint-N is
 * whole, whenever the process ended.
 */
export async function saveCheckpoint(dir: string, { model, optimizer, state }: CheckpointParts): Promise<void> {
  const partial = join(dirname(dir), `.partial-${basename(dir)}`);
  await rm(partial, { recursive: true, force: true });
  await mkdir(partial, { recursive: true });
  await model.save(partial);
  await writeTensors(join(partial, TRAINED), new Map(model.trainables.map(({ name, tensor }) => [name, tensor])), {});
  await writeTensors(join(partial, OPTIMIZER), optimizer.stateTensors(), { step: String(optimizer.step) });
  await atomicWriteFile(join(partial, STATE), stateToJson(state));
  await rm(dir, { recursive: true, force: true });
  await rename(partial, dir);
}

/** Bring model, optimizer and state back to where a checkpoint was written. */
export async function loadCheckpoint(dir: string, { model, optimizer, state }: CheckpointParts): Promise<void> {
  const file = join(dir, STATE);
  const text = await readFile(file, "utf8").catch(() => {
    throw new Error(`${dir} is not a checkpoint: ${STATE} is missing`);
  });
  const saved = stateFromJson(text, file);
  await readTensors(join(dir, TRAINED), new Map(model.trainables.map(({ name, tensor }) => [name, tensor])));
  const metadata = await readTensors(join(dir, OPTIMIZER), optimizer.stateTensors());
  const step = Number(metadata.get("step"));
  if (!Number.isInteger(step))
    throw new Error(`${join(dir, OPTIMIZER)}: metadata "step" must be a number, found ${metadata.get("step")}`);
  optimizer.step = step;
  Object.assign(state, saved);
}

async function checkpoints(outputDir: string): Promise<{ path: string; step: number }[]> {
  const names = await readdir(outputDir).catch(() => [] as string[]);
  return names
    .map((name) => ({ path: join(outputDir, name), step: Number(/^checkpoint-(\d+)$/.exec(name)?.[1] ?? Number.NaN) }))
    .filter(({ step }) => Number.isInteger(step))
    .sort((a, b) => a.step - b.step);
}

/** The checkpoint with the highest step, or null. */
export async function latestCheckpoint(outputDir: string): Promise<string | null> {
  return (await checkpoints(outputDir)).at(-1)?.path ?? null;
}

/** Keep the newest `limit` checkpoints. */
export async function removeOldCheckpoints(outputDir: string, limit: number | null): Promise<void> {
  if (limit === null) return;
  for (const { path } of (await checkpoints(outputDir)).slice(0, -limit))
    await rm(path, { recursive: true, force: true });
}
