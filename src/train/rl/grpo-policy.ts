import { type Batch, vectorInput } from "../../data/collate.ts";
import type { ModelAdapter } from "../../models/adapter.ts";
import type { CausalLM } from "../../models/model.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { LogRow } from "../callbacks.ts";
import { InitialAdapter } from "../initial-adapter.ts";
import type { Forward } from "../loss.ts";
import { count, record } from "../python-json-reader.ts";
import type { TrainerState } from "../state.ts";
import type { StepRunner } from "../step.ts";
import type { CompletionsLog } from "./completions-log.ts";
import { EntropyControl, hasEntropyBonus } from "./entropy-control.ts";
import type { GRPOConfig } from "./grpo-config.ts";
import { type GenerationParts, generateSamples } from "./grpo-generation.ts";
import type { GRPOPolicy } from "./grpo-source.ts";
import { MetricLists } from "./metric-lists.ts";
import type { PromptRow } from "./prompts.ts";
import type { RewardFunction } from "./rewards.ts";
import { Rollouts } from "./rollout.ts";
import { checkedRollouts, type RolloutFunction } from "./rollout-function.ts";
import { perSample, type Sample, sampleBatch } from "./samples.ts";
import { quantile } from "./statistics.ts";

/** The reference model: another adapter, the trained one as it was, or, null, the base model. */
export type GRPOReference = InitialAdapter | { readonly adapter: ModelAdapter | null };

export interface PolicyParts {
  readonly lm: CausalLM;
  readonly tokenizer: Tokenizer;
  readonly args: GRPOConfig;
  readonly rewards: readonly RewardFunction[];
  readonly names: readonly string[];
  readonly weights: readonly number[];
  readonly rolloutFunc: RolloutFunction | undefined;
  readonly reference: GRPOReference;
  readonly completions: CompletionsLog;
}

/** Tells callbacks that completions are being generated. */
export type EmitRollout = (event: "onRolloutBegin" | "onRolloutEnd", row: LogRow) => Promise<void>;

/** Whether a generation is trained on after the policy has changed: several iterations, or more microbatches than a step. */
export const trainsOffPolicy = (
  args: Pick<GRPOConfig, "gradientAccumulationSteps" | "stepsPerGeneration" | "numIterations">,
): boolean => args.gradientAccumulationSteps % (args.stepsPerGeneration * args.numIterations) !== 0;

/** The model being trained, as rollouts use it: sampling, scoring, and what is measured on the way. */
export class Policy implements GRPOPolicy {
  /** Since the last log of training, and of evaluation. */
  readonly metrics = new MetricLists();
  readonly evalMetrics = new MetricLists();
  readonly completions: CompletionsLog;
  /** Tokens of prompts and completions generated for training. */
  tokensSeen = 0;
  /**
   * Whether training is off the policy (`trainsOffPolicy`): then batches have the log-probabilities of the policy that
   * sampled. Elsewhere those are the policy's own.
   */
  readonly usesOld: boolean;
  private readonly args: GRPOConfig;
  private readonly entropy: EntropyControl;
  /** Microbatches of the update at hand. */
  private training: readonly Batch[] = [];
  private readonly reference: GRPOReference;
  private readonly rollouts: Rollouts;
  private readonly generation: GenerationParts;
  private runner: StepRunner | null = null;
  private trainerState: (() => TrainerState) | null = null;
  private emit: EmitRollout | null = null;

  constructor(parts: PolicyParts) {
    const { lm, tokenizer, args, completions, rolloutFunc } = parts;
    this.args = args;
    this.entropy = new EntropyControl(args);
    this.completions = completions;
    this.reference = parts.reference;
    this.usesOld = trainsOffPolicy(args);
    this.rollouts = new Rollouts(lm, {
      maxNewTokens: args.maxCompletionLength,
      temperature: args.temperature,
      topK: args.topK,
      topP: args.topP,
      minP: args.minP ?? 0,
      repetitionPenalty: args.repetitionPenalty,
      stopTokenIds: tokenizer.eosTokenIds,
    });
    this.generation = {
      ...parts,
      settings: args,
      trainerState: () => this.trainerState!(),
      complete: checkedRollouts(
        rolloutFunc ??
          (({ promptIds, numGenerations, seed }) => this.rollouts.complete(promptIds, numGenerations, seed)),
        { vocabSize: lm.config.vocabSize, shortest: 1 },
      ),
    };
  }

  /** Gives what only a constructed trainer has. */
  attach(runner: StepRunner, trainerState: () => TrainerState, emit: EmitRollout): void {
    this.runner = runner;
    this.trainerState = trainerState;
    this.emit = emit;
  }

  async generate(rows: readonly PromptRow[], copies: number, seed: number, evaluating: boolean): Promise<Sample[]> {
    const { completions } = this;
    const metrics = evaluating ? this.evalMetrics : this.metrics;
    await this.emit?.("onRolloutBegin", { completions: rows.length * copies });
    const { samples, tokens } = await generateSamples(this.generation, rows, copies, seed, { metrics, completions });
    await this.emit?.("onRolloutEnd", { completions: rows.length * copies, tokens });
    if (!evaluating) this.tokensSeen += tokens;
    return samples;
  }

  async score(samples: readonly Sample[]): Promise<Sample[]> {
    const { usesOld } = this;
    const { beta, perDeviceTrainBatchSize: size, temperature } = this.args;
    if (!usesOld && beta === 0) return [...samples];
    if (this.reference instanceof InitialAdapter) await this.reference.take();
    const forward: Forward = ({ trace, traceWith, hidden, tokens, labels }) => {
      const reference = traceWith(this.reference.adapter);
      return {
        ...(usesOld && { old: trace.logProbs(hidden(), { labels, temperature }).logps }),
        ...(beta !== 0 && { ref: reference.logProbs(reference.hidden(tokens), { labels, temperature }).logps }),
      };
    };
    const scored: Sample[] = [];
    for (let at = 0; at < samples.length; at += size) {
      const some = samples.slice(at, at + size);
      const values = await this.runner!.forward(sampleBatch(some, 1), "rollout log-probabilities", forward);
      const old = values.old && perSample(some, values.old);
      const ref = values.ref && perSample(some, values.ref);
      some.forEach((sample, i) => scored.push({ ...sample, old: old?.[i] ?? null, ref: ref?.[i] ?? null }));
    }
    return scored;
  }

  async batch(samples: readonly Sample[], windowTokens: number, evaluating: boolean): Promise<Batch> {
    const plain = sampleBatch(samples, windowTokens);
    const coef = hasEntropyBonus(this.args) && { entropyCoef: vectorInput(Float32Array.of(this.entropy.applied)) };
    const batch = await this.masked({ ...plain, inputs: { ...plain.inputs, ...coef } });
    if (!evaluating) this.training = [...this.training, batch];
    return batch;
  }

  /** A batch of training or another has been run, with these entropies f32[T]. */
  observe(entropy: Float32Array, batch: Batch): void {
    if (this.training.includes(batch)) this.entropy.observe(entropy, batch);
  }

  /** An update is done. */
  stepDone(): void {
    this.training = [];
    if (hasEntropyBonus(this.args)) this.metrics.add("entropy_coef", this.entropy.updated());
  }

  /** With `keep`, which of the tokens are trained on, where it is not all. */
  private async masked(batch: Batch): Promise<Batch> {
    const { topEntropyQuantile, temperature } = this.args;
    if (topEntropyQuantile === 1) return batch;
    // The threshold goes by the entropies of this microbatch under the weights as they are: measured just before.
    const { entropy } = await this.runner!.forward(batch, "entropies", ({ trace, hidden, labels }) => ({
      entropy: trace.logProbs(hidden(), { labels, temperature }).entropy,
    }));
    const sequence = batch.inputs!.sequence!.data;
    const threshold = quantile(
      entropy!.filter((_, t) => sequence[t]! >= 0),
      1 - topEntropyQuantile,
    );
    const keep = entropy!.map((value, t) => (sequence[t]! >= 0 && value >= threshold ? 1 : 0));
    return { ...batch, inputs: { ...batch.inputs, keep: vectorInput(keep) } };
  }

  state(): Record<string, unknown> {
    const { tokensSeen: tokens_seen, metrics, completions } = this;
    const entropy = this.entropy.state();
    return { tokens_seen, metrics: metrics.state(), completions: completions.state(), ...(entropy && { entropy }) };
  }

  restore(state: unknown, file: string): void {
    const source = record({ source: state }, "source", file);
    this.tokensSeen = count(source, "tokens_seen", file);
    this.metrics.restore(source.metrics, file);
    this.completions.restore(source.completions);
    this.entropy.restore(source.entropy, file);
  }

  dispose(): void {
    this.rollouts.dispose();
  }
}
