import type { CheckpointPolicy } from "../graph/plan.ts";
import { availableMemory } from "../models/load/available-memory.ts";
import type { CausalLM } from "../models/model.ts";
import { saveModel } from "../models/save.ts";
import type { Trainable } from "../optim/optimizer.ts";
import { type GradientCheckpointing, PeftModel } from "../peft/index.ts";

/** A model with what training needs to know: which tensors change, and how it is saved. */
export interface TrainableModel {
  readonly lm: CausalLM;
  readonly trainables: readonly Trainable[];
  readonly checkpointing: CheckpointPolicy;
  /** Write the adapter, or the whole model when that is what was trained. */
  save(dir: string): Promise<void>;
}

/** Share of the free memory that "unsloth" checkpointing leaves to activations; the rest is for everybody else. */
const ACTIVATION_SHARE = 0.75;

/** Which activations to keep, from the setting's three words. */
export function checkpointPolicy(setting: GradientCheckpointing, budget: number | null): CheckpointPolicy {
  if (setting === false) return { kind: "keep" };
  if (setting === true) return { kind: "recompute" };
  return { kind: "budget", bytes: budget ?? Math.floor(ACTIVATION_SHARE * availableMemory()) };
}

/**
 * A model as training sees it: its adapter's tensors, or without an adapter all parameters. `budget` is what "unsloth"
 * checkpointing may use for activations, in bytes; null: most of what is free.
 */
export function asTrainable(model: PeftModel | CausalLM, budget: number | null = null): TrainableModel {
  if (model instanceof PeftModel) {
    const trainables = model.trainable();
    if (trainables.length === 0)
      throw new Error("the adapter was loaded for inference: load it with isTrainable: true to train it");
    const checkpointing = checkpointPolicy(model.gradientCheckpointing, budget);
    return { lm: model.model, trainables, checkpointing, save: (dir) => model.savePretrained(dir) };
  }
  const frozen = [...model.parameters.values()].find((tensor) => tensor.dtype !== "f32");
  if (frozen) {
    throw new Error(
      `the model has no adapter and its weights cannot be trained as they are (${frozen.name} is ${frozen.dtype}): ` +
        "call getPeftModel first, or load it with fullFinetuning: true",
    );
  }
  const trainables = [...model.parameters].map(([name, tensor]) => ({
    name,
    tensor,
    decay: !/bias|norm/.test(name),
    embedding: name === "model.embed_tokens.weight",
  }));
  return {
    lm: model,
    trainables,
    checkpointing: checkpointPolicy("unsloth", budget),
    save: (dir) => saveModel(model, dir),
  };
}
