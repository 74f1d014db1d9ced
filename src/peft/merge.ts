import type { DeviceTensor } from "../backends/backend.ts";
import { numel } from "../graph/types.ts";
import type { DoraTensors } from "../models/adapter.ts";
import type { DecoderConfig } from "../models/config.ts";
import { convertDense } from "../models/load/convert.ts";
import type { CausalLM } from "../models/model.ts";
import type { AdapterTensor, LoraAdapter } from "./adapter.ts";
import { scaleVectors, updatedSquares } from "./dora.ts";
import { EMBEDDING_WEIGHT, HEAD_WEIGHT } from "./layout.ts";
import type { LoraTarget } from "./targets.ts";
import { UpdateRunner, type WeightUpdate, weightUpdate } from "./update.ts";
import { openWeight, PIECE, readWeight } from "./weights.ts";

export interface MergeOptions {
  /** What 4-bit weights become: merged they cannot stay 4-bit without changing the model again. Default "bf16". */
  readonly dtype?: "bf16" | "f16" | "f32";
}

/** What merging did. */
export interface MergeReport {
  /** Parameters that changed. */
  readonly parameters: readonly string[];
  /** Those that were 4-bit, and now are `dtype`: decoded, updated and rounded. */
  readonly dequantized: readonly string[];
  readonly dtype: "bf16" | "f16" | "f32";
  /** The head, which was the embedding table, got a weight of its own: the two differ now. */
  readonly untied: boolean;
}

/** A merge that was done, and what it takes to undo it. */
export interface Merge {
  readonly report: MergeReport;
  /** Puts the model's parameters back, byte for byte. */
  undo(): void;
  /** Frees what only `undo` needs. */
  discard(): void;
}

/** One parameter of the merged model: the numbers of `source`, and an update. */
interface Job {
  readonly parameter: string;
  readonly source: DeviceTensor;
  readonly target: LoraTarget | undefined;
  /** Trained rows in the place of the source's. */
  readonly tokens: AdapterTensor | undefined;
}

/**
 * Makes the adapter part of its model's parameters: W + s·B·A (with DoRA's magnitudes), computed in f32 and rounded once to the type W is kept in
 * (nearest even), and the copies of modules trained in full. Does not touch `model.adapter`. With `keepOriginals` the
 * replaced bytes are kept in host memory, and an error leaves the model as it was; without, an error can leave it half
 * merged. Throws when the adapter holds numbers that are not finite, or one does not fit f16.
 */
export async function mergeLora(
  adapter: LoraAdapter,
  { dtype = "bf16", keepOriginals }: MergeOptions & { keepOriginals: boolean },
): Promise<Merge> {
  const { model } = adapter;
  const { jobs, untied } = planMerge(adapter);
  const runner = new UpdateRunner(model.backend);
  const undos: (() => void)[] = [];
  const discarded: DeviceTensor[] = [];
  const dequantized: string[] = [];
  const undo = (): void => {
    for (const step of undos.reverse()) step();
    undos.length = 0;
  };
  try {
    for (const job of jobs) {
      const old = model.parameters.get(job.parameter);
      if (old && !old.quantization) {
        const original = keepOriginals ? await old.read() : null;
        if (original) undos.push(() => old.write(original));
        await runJob(adapter, job, old, runner);
        continue;
      }
      const shape = job.source.shape;
      const kept = old ? dtype : (model.parameters.get(EMBEDDING_WEIGHT)!.dtype as "f32");
      const merged = model.backend.createTensor(job.parameter, kept, shape, { role: "weight" });
      undos.push(() => {
        if (old) model.parameters.set(job.parameter, old);
        else model.parameters.delete(job.parameter);
        merged.dispose();
      });
      await runJob(adapter, job, merged, runner);
      model.parameters.set(job.parameter, merged);
      if (!old) continue;
      dequantized.push(job.parameter);
      if (keepOriginals) discarded.push(old);
      else old.dispose();
    }
  } catch (error) {
    if (keepOriginals) undo();
    throw error;
  } finally {
    runner.dispose();
  }
  if (untied) undos.push(untie(model));
  return {
    report: { parameters: jobs.map(({ parameter }) => parameter), dequantized, dtype, untied },
    undo,
    discard: () => {
      for (const tensor of discarded) tensor.dispose();
      undos.length = 0;
    },
  };
}

function planMerge(adapter: LoraAdapter): { jobs: Job[]; untied: boolean } {
  const { model, targets, tensors, overrides } = adapter;
  const targetOf = new Map(targets.map((target) => [`${target.path}.weight`, target]));
  const rowsOf = new Map(tensors.flatMap((one) => (one.tokens ? [[`${one.tokens.path}.weight`, one]] : [])));
  const changed = new Set([
    ...targetOf.keys(),
    ...rowsOf.keys(),
    ...tensors.flatMap(({ parameters }) => parameters),
    ...overrides.keys(),
  ]);
  const table = model.parameter(EMBEDDING_WEIGHT);
  const embedding = adapter.replacement(EMBEDDING_WEIGHT) ?? table;
  const head = adapter.replacement(HEAD_WEIGHT) ?? embedding;
  const tied = model.config.tiedHead;
  const untied = tied && (head !== embedding || targetOf.has(HEAD_WEIGHT) || targetOf.has(EMBEDDING_WEIGHT));
  changed.delete(HEAD_WEIGHT);
  const jobs: Job[] = [];
  const add = (parameter: string, source: DeviceTensor): void => {
    jobs.push({ parameter, source, target: targetOf.get(parameter), tokens: rowsOf.get(parameter) });
  };
  // The head first: it may be made from the table that the embedding's own job then changes.
  if (untied) add(HEAD_WEIGHT, head);
  else if (!tied && (targetOf.has(HEAD_WEIGHT) || rowsOf.has(HEAD_WEIGHT) || adapter.replacement(HEAD_WEIGHT))) {
    add(HEAD_WEIGHT, adapter.replacement(HEAD_WEIGHT) ?? model.parameter(HEAD_WEIGHT));
  }
  for (const parameter of changed) add(parameter, adapter.replacement(parameter) ?? model.parameter(parameter));
  return { jobs, untied };
}

/** Writes source + update into `into`, some rows at a time. */
async function runJob(adapter: LoraAdapter, job: Job, into: DeviceTensor, runner: UpdateRunner): Promise<void> {
  const { backend } = adapter.model;
  const numbers = await openWeight(backend, job.source);
  const dtype = into.dtype as "f32" | "bf16" | "f16";
  let at = 0;
  const write = (piece: Float32Array): void => {
    const bytes = new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
    const narrow = convertDense(bytes, "f32", dtype, job.parameter);
    into.write(narrow, { offset: (narrow.byteLength / piece.length) * at });
    at += piece.length;
  };
  if (!job.target) {
    const count = numel(into.shape);
    const rows = job.tokens && (await readWeight(backend, job.tokens.tensor));
    while (at < count) {
      const piece = numbers(at, Math.min(PIECE, count - at));
      if (rows) putRows(piece, at, rows, job.tokens!);
      write(piece);
    }
    return;
  }
  const { path, kind } = job.target;
  const pair = kind === "embedding" ? adapter.loraEmbedding(path) : adapter.lora(path);
  // A module that AdaLoRA has pruned altogether stays as it is.
  if (!pair) return;
  const all = await weightUpdate(backend, job.target, pair);
  const factors = pair.dora && (await doraFactors(adapter, job, pair.dora, all, runner));
  const cols = job.target.shape[1];
  for await (const update of runner.rows(all)) {
    const piece = numbers(at, update.length);
    for (let i = 0; i < piece.length; i++) piece[i] = piece[i]! + update[i]!;
    if (factors) scaleVectors(job.target, at / cols, piece, factors);
    if (!piece.every(Number.isFinite)) {
      throw new Error(`merging gives numbers in ${job.parameter} that are not finite: the adapter's A or B is damaged`);
    }
    write(piece);
  }
}

/** Writes trained rows into the piece of their table that begins at its element `at`. */
function putRows(piece: Float32Array, at: number, rows: Float32Array, { shape, tokens }: AdapterTensor): void {
  const width = shape[1]!;
  if (!rows.every(Number.isFinite)) throw new Error("merging: the adapter has trained rows that are not finite");
  tokens!.indices.forEach((index, i) => {
    const [from, to] = [Math.max(index * width, at), Math.min((index + 1) * width, at + piece.length)];
    if (from >= to) return;
    const start = i * width + from - index * width;
    piece.set(rows.subarray(start, start + to - from), from - at);
  });
}

/** What DoRA multiplies the vectors of W + s·B·A by: their magnitudes over their lengths. */
async function doraFactors(
  { model: { backend } }: LoraAdapter,
  { source, target }: Job,
  { magnitude }: DoraTensors,
  update: WeightUpdate,
  runner: UpdateRunner,
): Promise<Float64Array> {
  const squares = await updatedSquares(target!, await openWeight(backend, source), update, runner);
  const magnitudes = await readWeight(backend, magnitude);
  return squares.map((square, i) => magnitudes[i]! / Math.sqrt(square));
}

/** From now on the head is a parameter of its own, in config.json too. Returns what puts that back. */
function untie(model: CausalLM): () => void {
  // The one place that changes a model's configuration: parameter and configuration have to agree.
  const mutable: { config: DecoderConfig; hfConfig: Readonly<Record<string, unknown>> } = model;
  const { config, hfConfig } = model;
  mutable.config = { ...config, tiedHead: false };
  mutable.hfConfig = { ...hfConfig, tie_word_embeddings: false };
  return () => {
    mutable.config = config;
    mutable.hfConfig = hfConfig;
  };
}
