import type { Tokenizer } from "../../tokenizer/index.ts";
import type { TrainerState } from "../state.ts";
import { groupAdvantages } from "./advantages.ts";
import { completionMetrics, isTruncated } from "./completion-metrics.ts";
import type { CompletionsLog } from "./completions-log.ts";
import type { GRPOValues } from "./grpo-config.ts";
import type { MetricLists } from "./metric-lists.ts";
import type { PromptRow } from "./prompts.ts";
import { callRewards, type RewardFunction, type TextOrMessages } from "./rewards.ts";
import type { RolloutFunction } from "./rollout-function.ts";
import type { Sample } from "./samples.ts";
import { nanMean, nanStd } from "./statistics.ts";

export interface GenerationParts {
  readonly tokenizer: Tokenizer;
  readonly settings: Pick<GRPOValues, "scaleRewards" | "multiObjectiveAggregation" | "maskTruncatedCompletions">;
  readonly rewards: readonly RewardFunction[];
  readonly names: readonly string[];
  readonly weights: readonly number[];
  readonly complete: RolloutFunction;
  readonly trainerState: () => TrainerState;
}

/** Where numbers and completions of a generation go. */
export interface GenerationLogs {
  readonly metrics: MetricLists;
  readonly completions: CompletionsLog;
}

/** Prompts to scored samples, without log-probabilities yet, and how many tokens they hold. */
export async function generateSamples(
  parts: GenerationParts,
  rows: readonly PromptRow[],
  copies: number,
  seed: number,
  { metrics, completions: table }: GenerationLogs,
): Promise<{ samples: Sample[]; tokens: number }> {
  const { tokenizer, settings, names, weights } = parts;
  const trainerState = parts.trainerState();
  const request = { prompts: rows.map(({ prompt }) => prompt), promptIds: rows.map(({ ids }) => ids) };
  const completionIds = await parts.complete({ ...request, numGenerations: copies, seed, trainerState });
  const each = rows.flatMap((row) => Array.from({ length: copies }, () => row));
  const texts = completionIds.map((ids) => tokenizer.decode(ids, { skipSpecialTokens: true }));
  const completions = texts.map(
    (content, i): TextOrMessages => (typeof each[i]!.prompt === "string" ? content : [{ role: "assistant", content }]),
  );
  const {
    rewards: perFunction,
    columns: extra,
    metrics: called,
  } = await callRewards(parts.rewards, names, {
    ...columnsOf(each),
    prompts: each.map(({ prompt }) => prompt),
    completions,
    completionIds,
    trainerState,
  });
  warnUnscored(perFunction, texts);
  const { rewards, advantages, zeroStd } = groupAdvantages(perFunction, weights, copies, settings);
  const ends = new Set([...tokenizer.eosTokenIds, tokenizer.padTokenId]);
  metrics.addAll(completionMetrics(completionIds, ends));
  perFunction.forEach((values, k) => {
    metrics.add(`rewards/${names[k]}/mean`, nanMean(values));
    metrics.add(`rewards/${names[k]}/std`, nanStd(values));
  });
  metrics.addAll({ reward: nanMean(rewards), reward_std: nanStd(rewards), frac_reward_zero_std: zeroStd });
  for (const [name, values] of called) metrics.add(name, nanMean(values));
  completions.forEach((completion, i) => {
    table.add({
      prompt: each[i]!.prompt,
      completion,
      ...Object.fromEntries(names.map((name, k) => [name, orNull(perFunction[k]![i]!)])),
      ...Object.fromEntries([...extra].map(([column, values]) => [column, values[i]])),
      advantage: advantages[i]!,
    });
  });
  const samples = completionIds.map((completion, i): Sample => {
    const trained = !(settings.maskTruncatedCompletions && isTruncated(completion, ends));
    return { prompt: each[i]!.ids, completion, advantage: advantages[i]!, trained, old: null, ref: null };
  });
  return { samples, tokens: samples.reduce((sum, s) => sum + s.prompt.length + s.completion.length, 0) };
}

/** The data's other columns, an element a completion; a column that only some rows have is undefined for the others. */
function columnsOf(rows: readonly PromptRow[]): Record<string, unknown[]> {
  const names = new Set(rows.flatMap(({ columns }) => Object.keys(columns)));
  return Object.fromEntries([...names].map((name) => [name, rows.map(({ columns }) => columns[name])]));
}

function warnUnscored(perFunction: readonly Float64Array[], texts: readonly string[]): void {
  const index = texts.findIndex((_, i) => perFunction.every((values) => Number.isNaN(values[i]!)));
  if (index < 0) return;
  const text = JSON.stringify(texts[index]!.slice(0, 200));
  process.emitWarning(`every reward function gave null for a completion, which is not learnt from: ${text}`, {
    type: "UnslothWarning",
  });
}

const orNull = (value: number): number | null => (Number.isNaN(value) ? null : value);
