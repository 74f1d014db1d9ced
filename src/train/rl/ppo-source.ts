import type { Batch } from "../../data/collate.ts";
import { Sampler } from "../../data/index.ts";
import { OptionError } from "../../util/options.ts";
import { Rng } from "../../util/rng.ts";
import type { BatchSource } from "../batches.ts";
import type { Experience } from "./ppo-advantages.ts";
import { policyBatch, valueBatch } from "./ppo-batches.ts";
import type { PPOValues } from "./ppo-config.ts";
import type { PromptRow } from "./prompts.ts";
import { generationSeed } from "./rollout.ts";

/** What a source needs of its trainer. */
export interface PPOPolicy {
  /** Completions of the prompts by the model as it is, ready to be trained on. */
  rollout(rows: readonly PromptRow[], seed: number): Promise<{ experiences: Experience[]; width: number }>;
  /** What else of the rollouts a checkpoint holds. */
  state(): Record<string, unknown>;
  restore(state: unknown, file: string): void;
}

export interface PPOSourceOptions
  extends Pick<PPOValues, "batchSize" | "miniBatchSize" | "numPpoEpochs" | "numMiniBatches" | "shuffleDataset"> {
  readonly seed: number;
  readonly perDeviceTrainBatchSize: number;
}

/**
 * Rollouts, a step each: its completions gone through `numPpoEpochs` times in orders of their own, `numMiniBatches` updates
 * a time, each made of microbatches for the policy and for the value model. Prompts that do not fill a last rollout of an
 * epoch are left out of it.
 */
export class PPOSource implements BatchSource {
  readonly seeks = true;
  /** All microbatches of a rollout. */
  readonly windowSize: number;
  private readonly prompts: readonly PromptRow[];
  private readonly options: PPOSourceOptions;
  private readonly policy: PPOPolicy;
  private readonly rollouts: number;

  constructor(prompts: readonly PromptRow[], options: PPOSourceOptions, policy: PPOPolicy) {
    const { batchSize, miniBatchSize, numPpoEpochs, numMiniBatches, perDeviceTrainBatchSize } = options;
    this.prompts = prompts;
    this.options = options;
    this.policy = policy;
    this.windowSize = 2 * numPpoEpochs * numMiniBatches * Math.ceil(miniBatchSize / perDeviceTrainBatchSize);
    this.rollouts = Math.floor(prompts.length / batchSize);
    if (this.rollouts === 0) {
      throw new OptionError(
        `PPOTrainer: there are ${prompts.length} prompts, but a rollout takes ${batchSize} (perDeviceTrainBatchSize × ` +
          "gradientAccumulationSteps): give more, or lower those",
      );
    }
  }

  get length(): number {
    return this.rollouts * this.windowSize * this.options.perDeviceTrainBatchSize;
  }

  async *batches(epoch: number, _batchSize: number, skip = 0): AsyncGenerator<Batch> {
    const { seed, batchSize, shuffleDataset: shuffle } = this.options;
    const { length } = this.prompts;
    const sampler = Sampler.fromState({ length, seed, shuffle, epoch, position: 0 }, length);
    const order = sampler.nextBatch(length);
    // A rollout that a training with other sizes was in the middle of cannot be gone on with: it is made again.
    for (let index = Math.floor(skip / this.windowSize); index < this.rollouts; index++) {
      const rows = Array.from(order.slice(index * batchSize, (index + 1) * batchSize), (row) => this.prompts[row]!);
      const draw = generationSeed(seed, epoch * this.rollouts + index, batchSize);
      const { experiences, width } = await this.policy.rollout(rows, draw);
      yield* this.updates(experiences, width, new Rng(draw));
    }
  }

  state(): Record<string, unknown> {
    return this.policy.state();
  }

  restore(state: unknown, file: string): void {
    this.policy.restore(state, file);
  }

  private *updates(experiences: readonly Experience[], width: number, rng: Rng): Generator<Batch> {
    const { miniBatchSize, numPpoEpochs, perDeviceTrainBatchSize: size } = this.options;
    let update = 0;
    for (let epoch = 0; epoch < numPpoEpochs; epoch++) {
      const order = rng.permutation(experiences.length);
      for (let from = 0; from < order.length; from += miniBatchSize) {
        for (let at = from; at < from + miniBatchSize; at += size) {
          const indices = order.subarray(at, Math.min(at + size, from + miniBatchSize));
          const samples = Array.from(indices, (i) => experiences[i]!);
          yield policyBatch(samples, width, update);
          yield valueBatch(samples, update);
        }
        update++;
      }
    }
  }
}
