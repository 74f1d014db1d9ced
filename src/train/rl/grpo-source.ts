import type { Batch } from "../../data/collate.ts";
import { Sampler } from "../../data/index.ts";
import { OptionError } from "../../util/options.ts";
import { Rng } from "../../util/rng.ts";
import type { BatchSource } from "../batches.ts";
import { type Generation, generationFromJson, generationToJson } from "./generation-state.ts";
import type { PromptRow } from "./prompts.ts";
import { generationSeed } from "./rollout.ts";
import { type Sample, trainedTokens } from "./samples.ts";

/** What a source needs of its trainer. */
export interface GRPOPolicy {
  /** Completions of the prompts by the model as it is, scored. */
  generate(rows: readonly PromptRow[], copies: number, seed: number, evaluating: boolean): Promise<Sample[]>;
  /** Samples with the log-probabilities that the loss needs, by the model as it is. */
  score(samples: readonly Sample[]): Promise<Sample[]>;
  /** A microbatch, just before it is trained on or evaluated. */
  batch(samples: readonly Sample[], windowTokens: number, evaluating: boolean): Promise<Batch>;
  /** What else of the rollouts a checkpoint holds. */
  state(): Record<string, unknown>;
  restore(state: unknown, file: string): void;
}

export interface GRPOSourceOptions {
  readonly seed: number;
  readonly shuffle: boolean;
  readonly numGenerations: number;
  readonly generationBatchSize: number;
  readonly stepsPerGeneration: number;
  readonly numIterations: number;
}

/**
 * Completions of the prompts, made as training comes to them, in the order of TRL's sampler: an epoch's prompts a
 * generation at a time, each generation's completions shuffled, cut into microbatches, and gone through `numIterations`
 * times. Prompts that do not fill a last generation are left out, of each epoch others.
 */
export class GRPOSource implements BatchSource {
  readonly seeks = true;
  private readonly prompts: readonly PromptRow[];
  private readonly options: GRPOSourceOptions;
  private readonly policy: GRPOPolicy;
  private readonly generations: number;
  private held: Generation | null = null;

  constructor(prompts: readonly PromptRow[], options: GRPOSourceOptions, policy: GRPOPolicy) {
    this.prompts = prompts;
    this.options = options;
    this.policy = policy;
    this.generations = Math.floor(prompts.length / this.promptsPerGeneration);
    if (this.generations === 0) {
      throw new OptionError(
        `GRPOTrainer: there are ${prompts.length} prompts, but a generation takes ${this.promptsPerGeneration} ` +
          `(${options.generationBatchSize} completions, ${options.numGenerations} a prompt): give more, or lower perDeviceTrainBatchSize`,
      );
    }
  }

  /** Completions trained on in an epoch, those of every iteration counted. */
  get length(): number {
    return this.generations * this.options.generationBatchSize * this.options.numIterations;
  }

  async *batches(epoch: number, batchSize: number, skip = 0): AsyncGenerator<Batch> {
    const { stepsPerGeneration, numIterations } = this.options;
    const perGeneration = stepsPerGeneration * numIterations;
    const order = this.order(epoch);
    for (let index = Math.floor(skip / perGeneration); index < this.generations; index++) {
      const first = index === Math.floor(skip / perGeneration) ? skip % perGeneration : 0;
      const { samples } = await this.generation(epoch, index, order, first > 0);
      const tokens = samples.reduce((sum, sample) => sum + trainedTokens(sample), 0);
      for (let at = first; at < perGeneration; at++) {
        const from = (at % stepsPerGeneration) * batchSize;
        yield this.policy.batch(samples.slice(from, from + batchSize), Math.max(1, tokens) / stepsPerGeneration, false);
      }
    }
  }

  state(): Record<string, unknown> {
    return { generation: this.held && generationToJson(this.held), ...this.policy.state() };
  }

  restore(state: unknown, file: string): void {
    this.policy.restore(state, file);
    this.held = generationFromJson((state as { generation?: unknown } | null)?.generation ?? null, file);
  }

  private get promptsPerGeneration(): number {
    return this.options.generationBatchSize / this.options.numGenerations;
  }

  /** A new one, or that which is held when a resumed run goes on in the middle of it. */
  private async generation(epoch: number, index: number, order: Uint32Array, begun: boolean): Promise<Generation> {
    const { seed, numGenerations, generationBatchSize } = this.options;
    const { held } = this;
    // One of another size is of a training with other settings: parts of a step would be empty.
    const fits = held?.epoch === epoch && held.index === index && held.samples.length === generationBatchSize;
    if (begun && fits) return held;
    const count = this.promptsPerGeneration;
    const rows = Array.from(order.subarray(index * count, (index + 1) * count), (row) => this.prompts[row]!);
    const number = epoch * this.generations + index;
    const draw = generationSeed(seed, number, generationBatchSize);
    const samples = await this.policy.generate(rows, numGenerations, draw, false);
    const shuffled = Array.from(new Rng(draw).permutation(samples.length), (i) => samples[i]!);
    this.held = { epoch, index, samples: await this.policy.score(shuffled) };
    return this.held;
  }

  private order(epoch: number): Uint32Array {
    const { length } = this.prompts;
    const { seed, shuffle } = this.options;
    const sampler = Sampler.fromState({ length, seed, shuffle, epoch, position: 0 }, length);
    return Uint32Array.from(sampler.nextBatch(length));
  }
}

/** Completions of every prompt of an evaluation, made anew each time, with the same draws. */
export class GRPOEvalSource implements BatchSource {
  private readonly prompts: readonly PromptRow[];
  private readonly options: { readonly seed: number; readonly numGenerations: number };
  private readonly policy: GRPOPolicy;

  constructor(prompts: readonly PromptRow[], options: { seed: number; numGenerations: number }, policy: GRPOPolicy) {
    this.prompts = prompts;
    this.options = options;
    this.policy = policy;
  }

  get length(): number {
    return this.prompts.length * this.options.numGenerations;
  }

  async *batches(_epoch: number, batchSize: number): AsyncGenerator<Batch> {
    const { seed, numGenerations } = this.options;
    if (batchSize % numGenerations !== 0) {
      throw new OptionError(
        `GRPOTrainer: perDeviceEvalBatchSize (${batchSize}) must be a multiple of the ${numGenerations} generations of a prompt`,
      );
    }
    const count = batchSize / numGenerations;
    for (let at = 0; at < this.prompts.length; at += count) {
      const draw = generationSeed(seed, at, numGenerations, "eval");
      const made = await this.policy.generate(this.prompts.slice(at, at + count), numGenerations, draw, true);
      const samples = await this.policy.score(made);
      const tokens = samples.reduce((sum, sample) => sum + trainedTokens(sample), 0);
      yield await this.policy.batch(samples, Math.max(1, tokens), true);
    }
  }
}
