import type { Trainable } from "../optim/optimizer.ts";
import { OptionError } from "../util/options.ts";
import type { ArgumentValues } from "./arguments.ts";

type Rates = Pick<ArgumentValues, "learningRate" | "loraplusLrRatio" | "loraplusLrEmbedding" | "embeddingLearningRate">;

/**
 * Trained tensors with the learning rates that the arguments give to some of them.
 *
 * LoRA+ (Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models", 2024), by the groups of PEFT's
 * create_loraplus_optimizer: B matrices and vectors (biases, DoRA's magnitudes) learn `loraplusLrRatio` times as fast,
 * both halves of an embedding's update at `loraplusLrEmbedding`. Modules trained in full learn at
 * `embeddingLearningRate` (Unsloth). All rates follow the schedule. Throws OptionError when the model has no such tensor.
 */
export function withRates(trainables: readonly Trainable[], rates: Rates): Trainable[] {
  const { learningRate, loraplusLrRatio, loraplusLrEmbedding, embeddingLearningRate } = rates;
  if (loraplusLrRatio !== null && !trainables.some(({ name }) => isLora(name))) {
    throw new OptionError("loraplusLrRatio is for LoRA adapters, and this training has none: leave it out");
  }
  if (embeddingLearningRate !== null && !trainables.some(({ full }) => full)) {
    throw new OptionError(
      "embeddingLearningRate is for modules trained in full beside an adapter: name embed_tokens or lm_head in targetModules or modulesToSave",
    );
  }
  const multiple = (rate: number, option: string): number => {
    if (learningRate > 0) return rate / learningRate;
    throw new OptionError(`${option} needs a learningRate above 0: rates follow one schedule`);
  };
  return trainables.map((trainable) => {
    if (embeddingLearningRate !== null && trainable.full) {
      return { ...trainable, rate: multiple(embeddingLearningRate, "embeddingLearningRate") };
    }
    if (loraplusLrRatio === null) return trainable;
    if (trainable.name.includes(".lora_embedding_")) {
      return { ...trainable, rate: multiple(loraplusLrEmbedding, "loraplusLrEmbedding") };
    }
    const fast = trainable.name.includes("lora_B") || trainable.tensor.shape.length === 1;
    return fast ? { ...trainable, rate: loraplusLrRatio } : trainable;
  });
}

const isLora = (name: string): boolean => name.includes(".lora_");
