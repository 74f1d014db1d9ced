import type { PPOValues } from "./ppo-config.ts";

/** A completion as it was sampled. */
export interface Episode {
  readonly prompt: readonly number[];
  /** Up to the last token that is not padding. */
  readonly response: readonly number[];
  /** Log-probabilities of its tokens by policy and reference. */
  readonly old: readonly number[];
  readonly ref: readonly number[];
  /** Values before each token and, where the response is shorter than the rollout's longest, after the last. */
  readonly values: readonly number[];
  /** The reward model's. */
  readonly score: number;
}

/** An episode ready to be trained on. */
export interface Experience extends Episode {
  /** One a value: what the value model should have said. */
  readonly returns: readonly number[];
  /** One a token, whitened over the rollout. */
  readonly advantages: readonly number[];
}

export type EstimateSettings = Pick<PPOValues, "klCoef" | "klEstimator" | "whitenRewards" | "gamma" | "lam">;

/** Numbers of a rollout (TRL's objective/…). */
export interface RolloutMetrics {
  readonly "objective/kl": number;
  readonly "objective/entropy": number;
  readonly "objective/non_score_reward": number;
  readonly "objective/rlhf_reward": number;
  readonly "objective/scores": number;
}

/**
 * Rewards, returns and advantages of a rollout as TRL computes them: −klCoef·KL a token, the score where the response has
 * ended (one past its last token; on it, when the response is as long as `width`); generalised advantage estimates
 * (Schulman et al., 2016), A_t = δ_t + γλ·A_{t+1} with δ_t = r_t + γ·V_{t+1} − V_t; returns A + V; advantages whitened.
 * @param width tokens of the rollout's longest completion
 */
export function estimate(
  episodes: readonly Episode[],
  width: number,
  { klCoef, klEstimator, whitenRewards, gamma, lam }: EstimateSettings,
): { experiences: Experience[]; metrics: RolloutMetrics } {
  const kls = episodes.map(({ old, ref }) =>
    old.map((logp, t) => {
      const logr = ref[t]! - logp;
      return klEstimator === "k1" ? -logr : Math.exp(logr) - 1 - logr;
    }),
  );
  const unscaled = episodes.map(({ response, values, score }, i) => {
    const rewards = values.map((_, t) => -klCoef * (kls[i]![t] ?? 0));
    const end = response.length < width ? response.length : response.length - 1;
    rewards[end] = rewards[end]! + score;
    return rewards;
  });
  const rewards = whitenRewards ? whiten(unscaled, false) : unscaled;
  const raw = episodes.map(({ values }, i) => {
    const advantages = new Array<number>(values.length);
    let next = 0;
    for (let t = values.length - 1; t >= 0; t--) {
      const delta = rewards[i]![t]! + gamma * (values[t + 1] ?? 0) - values[t]!;
      next = delta + gamma * lam * next;
      advantages[t] = next;
    }
    return advantages;
  });
  const whitened = whiten(
    raw.map((advantages, i) => advantages.slice(0, episodes[i]!.response.length)),
    true,
  );
  const experiences = episodes.map((episode, i) => ({
    ...episode,
    returns: raw[i]!.map((advantage, t) => advantage + episode.values[t]!),
    advantages: whitened[i]!,
  }));
  const kl = mean(kls.map(total));
  const scores = mean(episodes.map(({ score }) => score));
  return {
    experiences,
    metrics: {
      "objective/kl": kl,
      "objective/entropy": mean(episodes.map(({ old }) => -total(old))),
      "objective/non_score_reward": -klCoef * kl,
      "objective/rlhf_reward": scores - klCoef * kl,
      "objective/scores": scores,
    },
  };
}

/** To variance 1 (Bessel's) over all lists, and to mean 0 if it is to be shifted. A single number stays. */
function whiten(lists: readonly (readonly number[])[], shift: boolean): number[][] {
  const all = lists.flat();
  if (all.length < 2) return lists.map((list) => [...list]);
  const center = mean(all);
  const variance = all.reduce((sum, x) => sum + (x - center) ** 2, 0) / (all.length - 1);
  const scale = 1 / Math.sqrt(variance + 1e-8);
  return lists.map((list) => list.map((x) => (x - center) * scale + (shift ? 0 : center)));
}

const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
const mean = (values: readonly number[]): number => total(values) / values.length;
