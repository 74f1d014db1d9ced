/** Small trainings for tests: a random model, seeded rows, nothing printed. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CpuBackend, openCpuBackend } from "../backends/cpu/backend.ts";
import type { TokenizedRow } from "../data/collate.ts";
import { type GetPeftModelOptions, getPeftModel, type PeftModel } from "../peft/index.ts";
import { randomSource } from "../testing/kernels.ts";
import { tinyModel } from "../testing/tiny-model.ts";
import { TrainingArguments } from "./arguments.ts";
import type { HistoryRow } from "./state.ts";
import { type RowOrder, TokenizedSource } from "./tokenized-source.ts";
import { asTrainable } from "./trainable.ts";
import { Trainer, type TrainerOptions } from "./trainer.ts";

export const openBackend = (): Promise<CpuBackend> => openCpuBackend({ threads: 2, prefer: "native" });

const VOCABULARY = 61;

/** A sequence whose first `untrained` tokens are not trained on. */
export function randomRow(length: number, seed: number, untrained = 0): TokenizedRow {
  const next = randomSource(seed);
  const inputIds = Int32Array.from({ length }, () => Math.floor(((next() + 1) / 2) * VOCABULARY));
  return { inputIds, labels: inputIds.map((id, i) => (i < untrained ? -100 : id)) };
}

/** Rows of `sequences` packed sequences each, of different lengths. */
export function randomRows(count: number, sequences = 1, seed = 1): TokenizedRow[][] {
  return Array.from({ length: count }, (_, row) =>
    Array.from({ length: sequences }, (_, i) => {
      const number = row * sequences + i;
      return randomRow(5 + ((number * 7) % 11), seed * 1000 + number, number % 3);
    }),
  );
}

export const source = (rows: TokenizedRow[][], order: Partial<RowOrder> = {}): TokenizedSource =>
  new TokenizedSource(rows, { strategy: "sequential", seed: 3, rowsPerStep: 2, ...order });

/** A LoRA adapter, r 2, on a model of two layers. */
export function tinyPeft(backend: CpuBackend, options: GetPeftModelOptions = {}): Promise<PeftModel> {
  const model = tinyModel(backend, "llama", { num_hidden_layers: 2 });
  return getPeftModel(model, { r: 2, loraAlpha: 4, targetModules: ["q_proj", "v_proj", "down_proj"], ...options });
}

/** A trainer of a model that prints nothing. */
export function quietTrainer(
  model: PeftModel | Parameters<typeof asTrainable>[0],
  options: Omit<TrainerOptions, "model" | "maxPositions" | "args"> & { args: Record<string, unknown> },
): Trainer {
  // AdaLoRA's plot goes there even where nothing else is saved.
  const outputDir = join(tmpdir(), "unsloth-train-output");
  const quiet = { logLevel: "error", loggingSteps: 1, learningRate: 1e-2, saveStrategy: "no", outputDir } as const;
  const args = { ...quiet, ...options.args };
  return new Trainer({ ...options, model: asTrainable(model), maxPositions: 64, args: new TrainingArguments(args) });
}

/** Rows of a history without times and speeds, which differ from run to run. */
export function withoutSpeed(history: readonly HistoryRow[]): HistoryRow[] {
  return history.map((row) =>
    Object.fromEntries(Object.entries(row).filter(([key]) => !/_runtime$|_per_second$/.test(key))),
  );
}

/** The bytes of everything that training changes, by name. */
export async function trainedBytes({ optimizer }: Trainer): Promise<Map<string, Buffer>> {
  const all = new Map<string, Buffer>();
  for (const { name, tensor } of optimizer.trainables) all.set(name, Buffer.from(await tensor.read()));
  for (const [name, tensor] of optimizer.stateTensors()) all.set(name, Buffer.from(await tensor.read()));
  return all;
}

/** A folder that is gone after the test. */
export async function inFolder<T>(body: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "unsloth-train-"));
  try {
    return await body(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
