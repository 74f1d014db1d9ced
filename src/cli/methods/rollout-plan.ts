import type { Batch } from "../../data/collate.ts";
import { type DecodingShape, planDecoding } from "../../generate/plan-decoding.ts";
import type { Program } from "../../graph/program.ts";
import type { CausalLM } from "../../models/model.ts";
import type { PeftModel } from "../../peft/index.ts";
import { hasEntropyBonus } from "../../train/rl/entropy-control.ts";
import type { GRPOConfig } from "../../train/rl/grpo.ts";
import { trainsOffPolicy } from "../../train/rl/grpo-policy.ts";
import { policyBatch, responseBatch, valueBatch } from "../../train/rl/ppo-batches.ts";
import type { PPOConfig } from "../../train/rl/ppo-config.ts";
import { ppoModels } from "../../train/rl/ppo-model.ts";
import { scoringForward } from "../../train/rl/ppo-policy.ts";
import { type PromptRow, promptRows } from "../../train/rl/prompts.ts";
import { sequencesAtOnce } from "../../train/rl/rollout.ts";
import { sampleBatch } from "../../train/rl/samples.ts";
import { batchShape, planForward } from "../../train/step-programs.ts";
import type { RolloutParts } from "./method.ts";

/** What a training on its own completions needs, all of them as long as they may be. */
export interface RolloutPlan {
  /** Sizes, for machines and people. */
  readonly counts: Readonly<Record<string, number>>;
  readonly lines: readonly string[];
  /** The largest microbatches of an update, by what they are for. */
  readonly training: Readonly<Record<string, Batch>>;
  /** Bytes of the keys and values of the sequences that are generated at once. */
  readonly cacheBytes: (lm: CausalLM) => number;
  /** Programs without gradients, by what they do; makes the caches on a sketch backend. */
  readonly programs: (lm: CausalLM) => Readonly<Record<string, Program>>;
}

/** Of GRPO. */
export function grpoPlan({ trainer, tokenizer, trainDataset, evalDataset }: RolloutParts): RolloutPlan {
  const args = trainer.args as GRPOConfig;
  const { numGenerations: copies, generationBatchSize, maxCompletionLength, perDeviceTrainBatchSize: batch } = args;
  const read = (data: typeof trainDataset): PromptRow[] =>
    promptRows(data, { owner: "GRPOTrainer", tokenizer, ...args });
  const prompts = longestFirst(read(trainDataset));
  const held = evalDataset ? longestFirst(read(evalDataset)) : [];
  const off = trainsOffPolicy(args);
  const completion = fill(maxCompletionLength);
  const samples = Array.from({ length: batch }, (_, i) => ({
    prompt: prompts[Math.floor(i / copies) % prompts.length]!.ids,
    completion,
    advantage: 1,
    trained: true,
    old: off ? completion : null,
    ref: args.beta === 0 ? null : completion,
  }));
  const update = sampleBatch(samples, batch * maxCompletionLength);
  const keep = { keep: { data: new Float32Array(update.inputIds.length), shape: [update.inputIds.length] } };
  const largest = {
    ...update,
    inputs: {
      ...update.inputs,
      ...(args.topEntropyQuantile < 1 && keep),
      ...(hasEntropyBonus(args) && { entropyCoef: { data: new Float32Array(1), shape: [1] } }),
    },
  };
  const sequences = Math.max(
    sequencesAtOnce(generationBatchSize, copies),
    held.length > 0 ? sequencesAtOnce(args.perDeviceEvalBatchSize, args.numGenerationsEval ?? copies) : 0,
  );
  const decoding = decodingOf([...prompts, ...held], Math.ceil(sequences / copies), {
    batch: sequences,
    maxLength: maxCompletionLength,
    repetitionPenalty: args.repetitionPenalty,
  });
  const perGeneration = generationBatchSize / copies;
  return {
    counts: { ...promptCounts(prompts), ...decodingCounts(decoding), completionsPerGeneration: generationBatchSize },
    lines: [
      `${promptLine(prompts)}; completions of up to ${maxCompletionLength}`,
      `a generation: ${generationBatchSize} completions of ${perGeneration} prompts, ${copies} each, gone through ` +
        `${args.numIterations} ${args.numIterations === 1 ? "time" : "times"}`,
    ],
    training: { update: largest },
    cacheBytes: cacheOf(decoding),
    programs: (lm) => named(planDecoding(lm, decoding), decoding),
  };
}

/** Of PPO. */
export function ppoPlan({ trainer, tokenizer, trainDataset, evalDataset, model }: RolloutParts): RolloutPlan {
  const args = trainer.args as PPOConfig;
  const { responseLength, batchSize, miniBatchSize, perDeviceTrainBatchSize } = args;
  const read = (data: typeof trainDataset): PromptRow[] =>
    promptRows(data, { owner: "PPOTrainer", tokenizer, ...args });
  const prompts = longestFirst(read(trainDataset));
  const shown = evalDataset && args.numSampleGenerations > 0 ? longestFirst(read(evalDataset)) : [];
  const response = fill(responseLength);
  const episodes = prompts.slice(0, batchSize).map(({ ids }) => {
    const numbers = { old: response, ref: response, values: response, returns: response, advantages: response };
    return { prompt: ids, response, score: 0, ...numbers };
  });
  const some = episodes.slice(0, Math.min(perDeviceTrainBatchSize, miniBatchSize));
  const shape = { maxLength: responseLength, repetitionPenalty: 1 };
  const decoding = (rows: readonly PromptRow[], count: number): DecodingShape =>
    decodingOf(rows, sequencesAtOnce(count, 1), { batch: sequencesAtOnce(count, 1), ...shape });
  const rollout = decoding(prompts, batchSize);
  const samples = shown.length > 0 ? decoding(shown, Math.min(shown.length, args.perDeviceEvalBatchSize)) : null;
  return {
    counts: { ...promptCounts(prompts), ...decodingCounts(rollout), completionsPerGeneration: batchSize },
    lines: [
      `${promptLine(prompts)}; completions of up to ${responseLength}`,
      `a rollout: ${batchSize} completions, ${args.numPpoEpochs * args.numMiniBatches} updates of ${miniBatchSize}`,
    ],
    cacheBytes: cacheOf(rollout),
    training: { "policy's update": policyBatch(some, responseLength, 0), "value model's update": valueBatch(some, 0) },
    programs: (lm) => {
      const scored = responseBatch(episodes.slice(0, args.localRolloutForwardBatchSize));
      const scoring = scoringForward(ppoModels(model as PeftModel, args, null), args.temperature);
      const forward = planForward(trainer.runner.options, "rollout scores", scoring, batchShape(scored));
      return {
        ...named(planDecoding(lm, rollout), rollout),
        [`scoring ${scored.inputIds.length} tokens`]: forward,
        ...(samples && named(planDecoding(lm, samples), samples, "samples shown: ")),
      };
    },
  };
}

const longestFirst = (prompts: PromptRow[]): PromptRow[] => prompts.sort((a, b) => b.ids.length - a.ids.length);

const fill = (length: number): number[] => new Array<number>(length).fill(0);

/** @param size `maxLength`: of a completion */
function decodingOf(
  prompts: readonly PromptRow[],
  count: number,
  size: Pick<DecodingShape, "batch" | "maxLength" | "repetitionPenalty">,
): DecodingShape {
  const longestPrompt = prompts.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  const promptTokens = longestFirst([...prompts])
    .slice(0, count)
    .reduce((sum, { ids }) => sum + ids.length, 0);
  return { ...size, maxLength: longestPrompt + size.maxLength, promptTokens, longestPrompt };
}

function named(
  { prefill, decode }: ReturnType<typeof planDecoding>,
  { batch, maxLength }: DecodingShape,
  prefix = "",
): Record<string, Program> {
  return {
    [`${prefix}reading prompts`]: prefill,
    [`${prefix}generating ${batch} sequences of ${maxLength} tokens`]: decode,
  };
}

const decodingCounts = ({ batch, maxLength }: DecodingShape) => ({ sequencesAtOnce: batch, sequenceLength: maxLength });

const cacheOf =
  ({ batch, maxLength }: DecodingShape) =>
  ({ backend, config: { layers, kvHeads, headDim } }: CausalLM): number =>
    2 * layers * batch * maxLength * kvHeads * headDim * ((backend.computeDtype ?? "f32") === "f32" ? 4 : 2);

const promptCounts = (prompts: readonly PromptRow[]) => ({
  prompts: prompts.length,
  promptTokens: prompts.reduce((sum, { ids }) => sum + ids.length, 0),
  longestPrompt: prompts[0]!.ids.length,
});

const promptLine = (prompts: readonly PromptRow[]): string => {
  const { promptTokens, longestPrompt } = promptCounts(prompts);
  return `${prompts.length} prompts, ${promptTokens} tokens, ${prompts.at(-1)!.ids.length} to ${longestPrompt} each`;
};
