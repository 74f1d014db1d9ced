import { type Batch, type BatchInput, collate, vectorInput } from "../../data/collate.ts";
import type { Experience } from "./ppo-advantages.ts";

/** The ids of an experience, and labels: its response's tokens. */
function row({ prompt, response }: Pick<Experience, "prompt" | "response">) {
  const inputIds = Int32Array.from([...prompt, ...response]);
  return [{ inputIds, labels: inputIds.slice().fill(-100, 0, prompt.length) }];
}

/** Sequences packed, T tokens, without further inputs: what a rollout is scored on. */
export const responseBatch = (samples: readonly Pick<Experience, "prompt" | "response">[]): Batch =>
  collate(samples.map(row));

/**
 * For the policy's loss, beside ids and labels f32[T] at the tokens that predict a response's: `old` log-probabilities and
 * `advantages`; `invCount` f32[1], 1 / response tokens; `entries` f32[1], the tokens TRL's means count, padding to `width`
 * included.
 */
export function policyBatch(samples: readonly Experience[], width: number, update: number): Batch {
  const batch = responseBatch(samples);
  const count = samples.reduce((sum, { response }) => sum + response.length, 0);
  return {
    ...batch,
    weight: 1,
    update,
    inputs: {
      old: spread(samples, batch, ({ old }) => old),
      advantages: spread(samples, batch, ({ advantages }) => advantages),
      invCount: vectorInput(Float32Array.of(1 / Math.max(1, count))),
      entries: vectorInput(Float32Array.of(samples.length * width)),
    },
  };
}

/**
 * For the value model's, f32[T] at the tokens where values are: `values` of the rollout, `returns`, and `counted`, 1 there;
 * `invCount` f32[1], 1 / values. It has no weight: an update's mean is over policy batches.
 */
export function valueBatch(samples: readonly Experience[], update: number): Batch {
  const batch = responseBatch(samples);
  const count = samples.reduce((sum, { values }) => sum + values.length, 0);
  return {
    ...batch,
    labels: batch.labels.slice().fill(-100),
    numTargets: 0,
    weight: 0,
    update,
    inputs: {
      values: spread(samples, batch, ({ values }) => values),
      returns: spread(samples, batch, ({ returns }) => returns),
      counted: spread(samples, batch, ({ values }) => values.map(() => 1)),
      invCount: vectorInput(Float32Array.of(1 / count)),
    },
  };
}

/** Numbers of each sample from the token on that predicts its response, 0 elsewhere. */
function spread(
  samples: readonly Experience[],
  { inputIds }: Batch,
  numbers: (sample: Experience) => readonly number[],
): BatchInput {
  const all = new Float32Array(inputIds.length);
  let start = 0;
  for (const sample of samples) {
    all.set(numbers(sample), start + sample.prompt.length - 1);
    start += sample.prompt.length + sample.response.length;
  }
  return vectorInput(all);
}
