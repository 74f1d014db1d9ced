import type { CausalLM } from "../../models/model.ts";
import { sumRows } from "../../ops/reduce.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { Forward } from "../loss.ts";
import { count, record } from "../python-json-reader.ts";
import type { TrainerState } from "../state.ts";
import type { StepRunner } from "../step.ts";
import type { CompletionRow } from "./completions-log.ts";
import type { EmitRollout } from "./grpo-policy.ts";
import { MetricLists } from "./metric-lists.ts";
import { type Episode, type Experience, estimate } from "./ppo-advantages.ts";
import { responseBatch } from "./ppo-batches.ts";
import type { PPOConfig } from "./ppo-config.ts";
import type { PPOModels } from "./ppo-model.ts";
import type { PPOPolicy } from "./ppo-source.ts";
import { UpdateStatistics } from "./ppo-statistics.ts";
import type { PromptRow } from "./prompts.ts";
import { callRewards, RewardError, type RewardFunction, type Rewards, type TextOrMessages } from "./rewards.ts";
import { Rollouts } from "./rollout.ts";
import { checkedRollouts, type RolloutFunction } from "./rollout-function.ts";

export interface PPOPolicyParts {
  readonly lm: CausalLM;
  readonly tokenizer: Tokenizer;
  readonly args: PPOConfig;
  readonly models: PPOModels;
  /** null: the reward adapter scores. */
  readonly reward: RewardFunction | null;
  readonly rolloutFunc: RolloutFunction | undefined;
}

/** Added to temperatures, as in TRL. */
const WARMER = 1e-7;
/** That of the samples shown: nearly greedy. */
const SAMPLE_TEMPERATURE = 0.01;

/** The models as rollouts use them: sampling, scoring, and what is measured on the way. */
export class PPORollouts implements PPOPolicy {
  readonly metrics = new MetricLists();
  readonly statistics: UpdateStatistics;
  readonly temperature: number;
  /** Tokens of prompts and completions generated for training. */
  tokensSeen = 0;
  private readonly parts: PPOPolicyParts;
  private readonly complete: RolloutFunction;
  private readonly rollouts: Rollouts;
  private readonly samples: Rollouts;
  private readonly padId: number | null;
  private runner: StepRunner | null = null;
  private trainerState: (() => TrainerState) | null = null;
  private emit: EmitRollout | null = null;

  constructor(parts: PPOPolicyParts) {
    const { lm, tokenizer, args, rolloutFunc } = parts;
    this.parts = parts;
    this.statistics = new UpdateStatistics(args);
    this.temperature = args.temperature + WARMER;
    const stop = args.stopToken === "eos" ? tokenizer.eosTokenId : args.stopTokenId;
    const sampling = {
      maxNewTokens: args.responseLength,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      stopTokenIds: stop === null ? [] : [stop],
    };
    this.rollouts = new Rollouts(lm, { ...sampling, temperature: this.temperature });
    this.samples = new Rollouts(lm, { ...sampling, temperature: SAMPLE_TEMPERATURE + WARMER });
    this.complete = checkedRollouts(
      rolloutFunc ?? (({ promptIds, numGenerations, seed }) => this.rollouts.complete(promptIds, numGenerations, seed)),
      { vocabSize: lm.config.vocabSize, shortest: 0 },
    );
    // Where one token is both, it ends responses and belongs to them.
    this.padId = tokenizer.padTokenId === tokenizer.eosTokenId ? null : tokenizer.padTokenId;
  }

  /** Gives what only a constructed trainer has. */
  attach(runner: StepRunner, trainerState: () => TrainerState, emit: EmitRollout): void {
    this.runner = runner;
    this.trainerState = trainerState;
    this.emit = emit;
  }

  async rollout(rows: readonly PromptRow[], seed: number): Promise<{ experiences: Experience[]; width: number }> {
    const { args, tokenizer } = this.parts;
    const request = { prompts: rows.map(({ prompt }) => prompt), promptIds: rows.map(({ ids }) => ids) };
    const trainerState = this.trainerState!();
    await this.emit?.("onRolloutBegin", { completions: rows.length });
    const made = await this.complete({ ...request, numGenerations: 1, seed, trainerState });
    const width = made.reduce((most, { length }) => Math.max(most, length), 1);
    const responses = made.map((ids) => this.unpadded(ids));
    const given = await this.callReward(rows, responses);
    for (const [name, values] of given?.metrics ?? []) for (const value of values) this.metrics.add(name, value);
    const episodes = await this.score(rows, responses, width, given?.scores ?? null);
    const { experiences, metrics } = estimate(episodes, width, args);
    const eos = tokenizer.eosTokenId;
    const ends = made.reduce((sum, ids) => sum + ids.filter((id) => id === eos).length, 0);
    this.metrics.addAll({ ...metrics, "val/num_eos_tokens": ends });
    const tokens = rows.reduce((sum, { ids }, i) => sum + ids.length + responses[i]!.length, 0);
    this.tokensSeen += tokens;
    await this.emit?.("onRolloutEnd", { completions: rows.length, tokens });
    return { experiences, width };
  }

  /** The updates of a rollout are done: their statistics go to the log. */
  finish(): void {
    this.metrics.addAll(this.statistics.take());
  }

  /** Nearly greedy completions with their scores, as TRL shows them. */
  async show(rows: readonly PromptRow[]): Promise<CompletionRow[]> {
    const made = await this.samples.complete(
      rows.map(({ ids }) => ids),
      1,
      0,
    );
    const responses = made.map((ids) => this.unpadded(ids));
    const width = made.reduce((most, { length }) => Math.max(most, length), 1);
    const given = await this.callReward(rows, responses);
    const scored = await this.score(rows, responses, width, given?.scores ?? null);
    return rows.map(({ prompt }, i) => ({
      prompt,
      completion: this.parts.tokenizer.decode(responses[i]!),
      score: scored[i]!.score,
    }));
  }

  state(): Record<string, unknown> {
    return { tokens_seen: this.tokensSeen, metrics: this.metrics.state() };
  }

  restore(state: unknown, file: string): void {
    const source = record({ source: state }, "source", file);
    this.tokensSeen = count(source, "tokens_seen", file);
    this.metrics.restore(source.metrics, file);
  }

  dispose(): void {
    this.rollouts.dispose();
    this.samples.dispose();
  }

  /** A response up to its first padding token. */
  private unpadded(ids: readonly number[]): readonly number[] {
    const end = this.padId === null ? -1 : ids.indexOf(this.padId);
    return end < 0 ? ids : ids.slice(0, end);
  }

  /**
   * Log-probabilities, values and scores of responses, `localRolloutForwardBatchSize` a forward pass. `given`: the scores,
   * where a function gave them and no reward adapter does.
   */
  private async score(
    rows: readonly PromptRow[],
    responses: readonly (readonly number[])[],
    width: number,
    given: Float64Array | null,
  ): Promise<Episode[]> {
    const { args, tokenizer } = this.parts;
    const all = rows.map(({ ids }, i) => ({ prompt: ids, response: responses[i]! }));
    const size = args.localRolloutForwardBatchSize;
    const episodes: Episode[] = [];
    for (let at = 0; at < all.length; at += size) {
      const some = all.slice(at, at + size);
      const numbers = await this.runner!.forward(
        responseBatch(some),
        "rollout scores",
        scoringForward(this.parts.models, this.temperature),
      );
      let start = 0;
      some.forEach(({ prompt, response }, i) => {
        const first = start + prompt.length - 1;
        const take = (values: Float32Array, length: number): number[] => [...values.subarray(first, first + length)];
        const missed = args.missingEosPenalty !== null && !response.includes(tokenizer.eosTokenId!);
        episodes.push({
          prompt,
          response,
          old: take(numbers.old!, response.length),
          ref: take(numbers.ref!, response.length),
          // One more than tokens: after the last, unless there is no place for it.
          values: take(numbers.values!, Math.min(response.length + 1, width)),
          score:
            (given ? given[at + i]! : numbers.rewards![first + response.length]!) -
            (missed ? args.missingEosPenalty! : 0),
        });
        start += prompt.length + response.length;
      });
    }
    return episodes;
  }

  /** Scores by the reward function, and the numbers it logged; null: an adapter scores. */
  private async callReward(
    rows: readonly PromptRow[],
    responses: readonly (readonly number[])[],
  ): Promise<{ scores: Float64Array; metrics: Rewards["metrics"] } | null> {
    const { tokenizer, reward } = this.parts;
    if (!reward) return null;
    const name = reward.name || "rewardModel";
    const columns = new Set(rows.flatMap((row) => Object.keys(row.columns)));
    const { rewards, metrics } = await callRewards([reward], [name], {
      ...Object.fromEntries([...columns].map((column) => [column, rows.map((row) => row.columns[column])])),
      prompts: rows.map(({ prompt }) => prompt),
      completions: responses.map((ids, i): TextOrMessages => {
        const content = tokenizer.decode(ids, { skipSpecialTokens: true });
        return typeof rows[i]!.prompt === "string" ? content : [{ role: "assistant", content }];
      }),
      completionIds: responses,
      trainerState: this.trainerState!(),
    });
    const scores = rewards[0]!;
    const none = scores.findIndex(Number.isNaN);
    if (none >= 0) {
      throw new RewardError(
        `the reward function "${name}" gave null for completion ${none}; PPO needs a number for each`,
      );
    }
    return { scores, metrics };
  }
}

/** The models over the same packed tokens, one after the other: only their numbers a token stay in memory. */
export function scoringForward({ policy, value, reference, reward }: PPOModels, temperature: number): Forward {
  return ({ traceWith, tokens, labels }) => {
    const logps = (adapter: typeof reference) => {
      const trace = traceWith(adapter);
      return trace.logProbs(trace.hidden(tokens), { labels, temperature }).logps;
    };
    const scores = (adapter: NonNullable<typeof reward>) => {
      const trace = traceWith(adapter);
      return sumRows(trace.scores(trace.hidden(tokens)));
    };
    return {
      old: logps(policy),
      ref: logps(reference),
      values: scores(value),
      ...(reward && { rewards: scores(reward) }),
    };
  };
}
