import { type BatchInput, vectorInput } from "../../data/collate.ts";
import { type Batch, collate, IGNORE_INDEX } from "../../data/index.ts";

/** A completion to train on. */
export interface Sample {
  readonly prompt: readonly number[];
  readonly completion: readonly number[];
  readonly advantage: number;
  /** Whether its tokens count in the loss: not where truncated completions are left out. */
  readonly trained: boolean;
  /** Log-probabilities of its tokens, f32, by the policy that made it; null where it is the one being trained. */
  readonly old: readonly number[] | null;
  /** The same by the reference model; null without a KL term. */
  readonly ref: readonly number[] | null;
}

/** Tokens that count in the loss. */
export const trainedTokens = (sample: Sample): number => (sample.trained ? sample.completion.length : 0);

/**
 * Samples as one packed microbatch of T tokens and B sequences, that weighs 1 in its window. Its inputs:
 * - `sequence` i32[T]: the sample that a predicted completion token belongs to, −1 for all other tokens;
 * - `advantages` f32[B]; `invLength` f32[B]: 1 / trained tokens; `invTokens` f32[1]: the same of the batch;
 * - `invWindow` f32[1]: 1 / `windowTokens`;
 * - `old`, `ref` f32[T] where samples have them.
 * @param windowTokens trained tokens of a microbatch, on average over its generation
 */
export function sampleBatch(samples: readonly Sample[], windowTokens: number): Batch {
  const rows = samples.map(({ prompt, completion, trained }) => {
    const inputIds = Int32Array.from([...prompt, ...completion]);
    const labels = trained
      ? inputIds.slice().fill(IGNORE_INDEX, 0, prompt.length)
      : inputIds.slice().fill(IGNORE_INDEX);
    return [{ inputIds, labels }];
  });
  const batch = collate(rows);
  const counts = samples.map(trainedTokens);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const sequence = new Int32Array(batch.inputIds.length).fill(-1);
  forEachSample(samples, (sample, i, first) => {
    if (sample.trained) sequence.fill(i, first, first + sample.completion.length);
  });
  const inputs: Record<string, BatchInput> = {
    sequence: vectorInput(sequence),
    advantages: vectorInput(Float32Array.from(samples, ({ advantage }) => advantage)),
    invLength: vectorInput(Float32Array.from(counts, (count) => 1 / Math.max(1, count))),
    invTokens: vectorInput(Float32Array.of(1 / Math.max(1, total))),
    invWindow: vectorInput(Float32Array.of(1 / windowTokens)),
  };
  for (const name of ["old", "ref"] as const) {
    if (samples.some((sample) => sample[name] === null)) continue;
    const values = new Float32Array(batch.inputIds.length);
    forEachSample(samples, (sample, _, first) => values.set(sample.trained ? sample[name]! : [], first));
    inputs[name] = vectorInput(values);
  }
  return { ...batch, weight: 1, inputs };
}

/** Numbers a token, f32[T], of such a batch: each sample's completion tokens apart. */
export function perSample(samples: readonly Sample[], values: Float32Array): number[][] {
  const lists: number[][] = [];
  forEachSample(samples, ({ completion }, _, first) => {
    lists.push([...values.subarray(first, first + completion.length)]);
  });
  return lists;
}

/** Calls with the place of the token that predicts a completion's first one. */
function forEachSample(samples: readonly Sample[], body: (sample: Sample, index: number, first: number) => void): void {
  let start = 0;
  samples.forEach((sample, i) => {
    body(sample, i, start + sample.prompt.length - 1);
    start += sample.prompt.length + sample.completion.length;
  });
}
