import type { Backend, BackendMemory, Executable } from "../backends/backend.ts";
import type { Batch } from "../data/collate.ts";
import type { CheckpointPolicy } from "../graph/plan.ts";
import type { Program } from "../graph/program.ts";
import type { CausalLM } from "../models/model.ts";
import { LOSS_METRICS } from "../ops/cross-entropy.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import { availableMemory } from "../util/available-memory.ts";
import type { ComputeLoss, Forward, HostLogs } from "./loss.ts";
import { neftuneNoise } from "./neftune.ts";
import {
  ARRAY_PREFIX,
  type BatchMode,
  type BatchShape,
  batchShape,
  INPUT_PREFIX,
  LOG_PREFIX,
  planBatch,
  planForward,
  planLogits,
  shapeKey,
} from "./step-programs.ts";

/** What one microbatch gave. */
export interface StepResult {
  /** This microbatch's part of the window's loss: lossScale·Σ CE. */
  readonly loss: number;
  /** Sums over its trained tokens; null when the loss does not give them. */
  readonly metrics: Readonly<Record<(typeof LOSS_METRICS)[number], number>> | null;
  /** Further numbers that the loss reports. */
  readonly logs: Readonly<Record<string, number>>;
  /** Arrays that the loss gave to the host. */
  readonly arrays: Readonly<Record<string, Float32Array>>;
}

export interface StepOptions {
  readonly model: CausalLM;
  readonly optimizer: Optimizer;
  readonly computeLoss?: ComputeLoss | undefined;
  readonly policy: CheckpointPolicy;
  readonly offload?: boolean | undefined;
  /** Most bytes of host memory for offloading; left out: four fifths of what this process can still take. */
  readonly hostBytes?: number | undefined;
  /** Longest sequence: the rotary table's length. */
  readonly maxPositions: number;
  readonly labelSmoothing?: number | undefined;
  /** Strength of NEFTune's noise; null or left out: none. */
  readonly neftuneNoiseAlpha?: number | null | undefined;
}

/** Programs kept ready; a program of a length not seen lately is planned again. */
const CACHED_PROGRAMS = 64;

interface Compiled {
  readonly executable: Executable;
  readonly hostLogs: HostLogs | null;
}

/** Forward and backward over one packed microbatch, and evaluation: programs cached by token count. */
export class StepRunner {
  /** As programs are planned with them. */
  readonly options: StepOptions;
  private readonly backend: Backend;
  private readonly cache = new Map<string, Compiled>();

  constructor(options: StepOptions) {
    // Asked once: what the first program's offloading takes would be missing from the second's plan.
    const hostBytes = options.offload ? (options.hostBytes ?? Math.floor(0.8 * availableMemory())) : undefined;
    this.options = { ...options, hostBytes };
    this.backend = options.model.backend;
  }

  get vocabSize(): number {
    return this.options.model.config.vocabSize;
  }

  /** Add this microbatch's gradients to the buffers. `seed` u32[2] draws dropout masks and noise. */
  async train(batch: Batch, lossScale: number, seed: Uint32Array): Promise<StepResult> {
    return (await this.execute("train", batch, lossScale, seed)).result;
  }

  /** The loss only, without dropout and noise. */
  async evaluate(batch: Batch, lossScale: number): Promise<StepResult> {
    return (await this.execute("eval", batch, lossScale)).result;
  }

  /** The same with the hidden states after the last norm, [T, d]: what `logits` takes. */
  async predict(batch: Batch, lossScale: number): Promise<StepResult & { hidden: Float32Array }> {
    const { result, outputs } = await this.execute("predict", batch, lossScale);
    return { ...result, hidden: outputs.hidden! };
  }

  /**
   * Arrays that `forward` computes from a batch, without gradients. The program is kept by `name`, which must say all that
   * the function depends on beside the batch.
   */
  async forward(batch: Batch, name: string, forward: Forward): Promise<Record<string, Float32Array>> {
    const shape = batchShape(batch);
    const { executable } = this.compiled(`forward ${name}:${shapeKey(shape)}`, () => ({
      program: planForward(this.options, name, forward, shape),
    }));
    return executable.execute(this.inputsOf(executable, batch, 1));
  }

  /** Logits [rows, V] of hidden states [rows, d]. */
  async logits(hidden: Float32Array): Promise<Float32Array> {
    const rows = hidden.length / this.options.model.config.hiddenSize;
    const { executable } = this.compiled(`logits:${rows}`, () => ({ program: planLogits(this.options, rows) }));
    return (await executable.execute({ hidden })).logits!;
  }

  /** The planned program for batches like this one (or of so many tokens and nothing else), compiled on first use. */
  program(mode: BatchMode, batch: Batch | number): Program {
    const shape = typeof batch === "number" ? { tokens: batch, inputs: new Map() } : batchShape(batch);
    return this.compiledBatch(mode, shape).executable.program;
  }

  memory(): BackendMemory {
    return this.backend.memory();
  }

  dispose(): void {
    for (const { executable } of this.cache.values()) executable.dispose();
    this.cache.clear();
  }

  private async execute(
    mode: BatchMode,
    batch: Batch,
    scale: number,
    seed: Uint32Array = new Uint32Array(2),
  ): Promise<{ result: StepResult; outputs: Record<string, Float32Array> }> {
    const { executable, hostLogs } = this.compiledBatch(mode, batchShape(batch));
    const outputs = await executable.execute(this.inputsOf(executable, batch, scale, seed));
    const result = resultOf(outputs);
    if (!hostLogs) return { result, outputs };
    return { result: { ...result, logs: { ...result.logs, ...hostLogs(result.arrays, batch) } }, outputs };
  }

  /** What an executable asks for, from a batch. */
  private inputsOf(
    executable: Executable,
    batch: Batch,
    scale: number,
    seed: Uint32Array = new Uint32Array(2),
  ): Record<string, Float32Array | Int32Array | Uint32Array> {
    const { model, optimizer, neftuneNoiseAlpha } = this.options;
    const gradScale = Float32Array.of(optimizer.lossScaler?.scale ?? 1);
    const { inputIds: ids, positions, seqStart, seqEnd, labels } = batch;
    const all = { ids, positions, seqStart, seqEnd, labels, lossScale: Float32Array.of(scale), seed, gradScale };
    const wanted = [...executable.program.inputs.keys()];
    const arrayOf = (name: string): Float32Array | Int32Array | Uint32Array => {
      if (name === "noise") return neftuneNoise(batch, model.config.hiddenSize, neftuneNoiseAlpha!, seed);
      if (name.startsWith(INPUT_PREFIX)) return batch.inputs![name.slice(INPUT_PREFIX.length)]!.data;
      return all[name as keyof typeof all];
    };
    return Object.fromEntries(wanted.map((name) => [name, arrayOf(name)]));
  }

  private compiledBatch(mode: BatchMode, shape: BatchShape): Compiled {
    return this.compiled(`${mode}:${shapeKey(shape)}`, () => planBatch(this.options, mode, shape));
  }

  private compiled(key: string, plan: () => { program: Program; hostLogs?: HostLogs | null }): Compiled {
    const found = this.cache.get(key);
    if (found) {
      this.cache.delete(key);
      this.cache.set(key, found);
      return found;
    }
    const { program, hostLogs = null } = plan();
    const compiled = { executable: this.backend.compile(program), hostLogs };
    this.cache.set(key, compiled);
    if (this.cache.size > CACHED_PROGRAMS) {
      const [oldest, stale] = this.cache.entries().next().value!;
      stale.executable.dispose();
      this.cache.delete(oldest);
    }
    return compiled;
  }
}

function resultOf(outputs: Readonly<Record<string, Float32Array>>): StepResult {
  const { loss, metrics } = outputs;
  const named = metrics && Object.fromEntries(LOSS_METRICS.map((name, i) => [name, metrics[i]!]));
  const under = (prefix: string): (readonly [string, Float32Array])[] =>
    Object.entries(outputs)
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, value]) => [name.slice(prefix.length), value]);
  return {
    loss: loss![0]!,
    metrics: (named as StepResult["metrics"]) ?? null,
    logs: Object.fromEntries(under(LOG_PREFIX).map(([name, value]) => [name, value[0]!])),
    arrays: Object.fromEntries(under(ARRAY_PREFIX)),
  };
}
