import { join } from "node:path";
import type { Backend, DeviceTensor } from "../backends/backend.ts";
import { openSafetensors, openSafetensorsFolder } from "../formats/safetensors.ts";
import type { CheckpointPolicy } from "../graph/plan.ts";
import { numel } from "../graph/types.ts";
import type { CausalLM } from "../models/model.ts";
import { saveModel } from "../models/save.ts";
import type { Trainable } from "../optim/optimizer.ts";
import { type GradientCheckpointing, PeftModel } from "../peft/index.ts";
import { availableMemory } from "../util/available-memory.ts";
import { AdaLoraTraining } from "./adalora/training.ts";
import type { MakeMethod } from "./method.ts";
import { RawAdapter } from "./raw-adapter.ts";
import { fillTensors } from "./tensor-files.ts";

/** A model with what training needs to know: which tensors change, and how it is saved. */
export interface TrainableModel {
  readonly lm: CausalLM;
  readonly trainables: readonly Trainable[];
  readonly checkpointing: CheckpointPolicy;
  /** What its adapter's method does beside gradient descent; left out: nothing. */
  readonly method?: MakeMethod | undefined;
  /** Write the adapter, or the whole model when that is what was trained. */
  save(dir: string): Promise<void>;
  /** Read the trained tensors back, bit for bit, from what `save` wrote. Throws FormatError. */
  load(dir: string): Promise<void>;
}

/** Share of the free memory that "unsloth" checkpointing leaves to activations; the rest is for everybody else. */
const ACTIVATION_SHARE = 0.75;

/** Parameters without weight decay, by name (transformers' Trainer). */
const NO_DECAY = /bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)/;

/** Which activations to keep, from the setting's three words; `backend` says how much is free where it can. */
export function checkpointPolicy(
  setting: GradientCheckpointing,
  budget: number | null,
  backend: Pick<Backend, "freeMemory">,
): CheckpointPolicy {
  if (setting === false) return { kind: "keep" };
  if (setting === true) return { kind: "recompute" };
  return {
    kind: "budget",
    bytes: budget ?? Math.floor(ACTIVATION_SHARE * (backend.freeMemory?.() ?? availableMemory())),
  };
}

/** Which activations a training keeps: as the model was set up, unless the training argument asks for more. */
export function trainingPolicy(model: TrainableModel, setting: GradientCheckpointing | null): CheckpointPolicy {
  // False is Hugging Face's default and does not switch off what getPeftModel was asked for.
  if (setting === "unsloth") return checkpointPolicy("unsloth", null, model.lm.backend);
  return setting === true && model.checkpointing.kind === "keep" ? { kind: "recompute" } : model.checkpointing;
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
    const checkpointing = checkpointPolicy(model.gradientCheckpointing, budget, model.model.backend);
    const { adapter } = model;
    // Of these the adapter's file has not what a training needs to go on: their method keeps it.
    const isKept = (name: string): boolean =>
      adapter.start?.has(name) || (adapter.adalora !== null && /\.lora_[ABE]$/.test(name));
    const kept = trainables.filter(({ name }) => isKept(name));
    return {
      lm: model.model,
      trainables,
      checkpointing,
      method: adapter.adalora
        ? (optimizer) => new AdaLoraTraining(adapter, optimizer)
        : adapter.start
          ? () => new RawAdapter(byName(kept))
          : undefined,
      save: (dir) => model.savePretrained(dir),
      async load(dir) {
        // PEFT's layout: the adapter named "default" is in the folder itself.
        const folder = model.activeAdapter === "default" ? dir : join(dir, model.activeAdapter);
        using file = openSafetensors(join(folder, "adapter_model.safetensors"));
        await fillTensors(file, byName(trainables.filter(({ name }) => !isKept(name))));
      },
    };
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
    decay: !NO_DECAY.test(name),
    embedding: name === "model.embed_tokens.weight",
  }));
  return {
    lm: model,
    trainables,
    checkpointing: checkpointPolicy("unsloth", budget, model.backend),
    save: (dir) => saveModel(model, dir),
    async load(dir) {
      using folder = openSafetensorsFolder(dir);
      await fillTensors(folder, byName(trainables));
    },
  };
}

const byName = (trainables: readonly Trainable[]): Map<string, DeviceTensor> =>
  new Map(trainables.map(({ name, tensor }) => [name, tensor]));

/** As transformers' num_parameters(exclude_embeddings=True), an adapter's own parameters included. */
export function parametersBesidesEmbedding(model: TrainableModel): number {
  const { parameters } = model.lm;
  const tensors = new Set(
    [...parameters].filter(([name]) => name !== "model.embed_tokens.weight").map(([, tensor]) => tensor),
  );
  for (const { tensor, embedding } of model.trainables) if (!embedding) tensors.add(tensor);
  return [...tensors].reduce((sum, { shape }) => sum + numel(shape), 0);
}
