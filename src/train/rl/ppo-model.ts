import { join } from "node:path";
import { openSafetensors } from "../../formats/safetensors.ts";
import { addScoreHead, SCORE_WEIGHT } from "../../models/score-head.ts";
import type { Trainable } from "../../optim/optimizer.ts";
import { saveAdapter } from "../../peft/adapter-files.ts";
import type { LoraAdapter, LoraConfigOptions, PeftModel } from "../../peft/index.ts";
import { OptionError } from "../../util/options.ts";
import { fillTensors } from "../tensor-files.ts";
import { checkpointPolicy, type TrainableModel } from "../trainable.ts";
import type { PPOValues } from "./ppo-config.ts";

/** PPO's models: adapters of one frozen base, and the base itself. */
export interface PPOModels {
  readonly policy: LoraAdapter;
  readonly value: LoraAdapter;
  /** null: the base without an adapter. */
  readonly reference: LoraAdapter | null;
  /** null: a function scores. */
  readonly reward: LoraAdapter | null;
  /** Policy and value model, trained together and saved side by side. */
  readonly trainable: TrainableModel;
}

export interface AddValueAdapterOptions extends LoraConfigOptions {
  /** Default "value". */
  readonly adapterName?: string | undefined;
  /** Start from another adapter with a score head, a reward model say; the rest of the options are then its own. */
  readonly from?: string | undefined;
}

/**
 * Adds the value model that PPO trains beside the policy: an adapter of the same base with a score head of its own. It is
 * configured as the adapter in use where options say nothing else. Throws OptionError as `addAdapter` does.
 */
export async function addValueAdapter(model: PeftModel, options: AddValueAdapterOptions = {}): Promise<LoraAdapter> {
  const { adapterName = "value", from, ...config } = options;
  addScoreHead(model.model);
  const source = from === undefined ? null : scored(model, from, "addValueAdapter");
  const like = (source ?? model.adapter).config;
  const value = await model.addAdapter(adapterName, {
    ...like,
    modulesToSave: null,
    initLoraWeights: true,
    inferenceMode: false,
    ...(!source && config),
    taskType: "SEQ_CLS",
  });
  if (source) {
    for (const { name, tensor } of value.tensors) {
      const own = source.tensors.find((other) => other.name === name);
      if (own) tensor.write(await own.tensor.read());
    }
  }
  return value;
}

/** The adapters that a training names. Throws OptionError for those that are not there, or lack a score head. */
export function ppoModels(model: PeftModel, settings: PPOValues, rewardModel: string | null): PPOModels {
  const policyName = settings.modelAdapterName ?? model.activeAdapter;
  const { valueAdapterName, refAdapterName } = settings;
  if (policyName !== model.activeAdapter) model.setAdapter(policyName);
  const policy = model.adapter;
  const { adapters } = model;
  if (!adapters.has(valueAdapterName)) {
    throw new OptionError(
      `PPOTrainer: the model has no adapter "${valueAdapterName}" to be the value model: call await addValueAdapter(model) first`,
    );
  }
  const value = scored(model, valueAdapterName, "PPOTrainer");
  const names = [policyName, valueAdapterName];
  for (const [name, adapter] of [
    [policyName, policy],
    [valueAdapterName, value],
  ] as const) {
    if (adapter.adalora) throw new OptionError(`PPOTrainer: adapter "${name}" is AdaLoRA; train LoRA with PPO`);
    if (!adapter.isTrainable) {
      throw new OptionError(`PPOTrainer: adapter "${name}" was loaded for inference: load it with isTrainable: true`);
    }
  }
  const other = (name: string, role: string): LoraAdapter => {
    if (names.includes(name))
      throw new OptionError(`PPOTrainer: adapter "${name}" is trained: it cannot be the ${role}`);
    const found = adapters.get(name);
    if (found) return found;
    throw new OptionError(
      `PPOTrainer: the model has no adapter "${name}" to be the ${role}; it has ${[...adapters.keys()].join(", ")}`,
    );
  };
  const reference = refAdapterName === null ? null : other(refAdapterName, "reference");
  if (rewardModel !== null) other(rewardModel, "reward model");
  return {
    policy,
    value,
    reference,
    reward: rewardModel === null ? null : scored(model, rewardModel, "PPOTrainer"),
    trainable: bothTrainable(model, [
      [policyName, policy],
      [valueAdapterName, value],
    ]),
  };
}

/** An adapter with a score head of one label. */
function scored(model: PeftModel, name: string, owner: string): LoraAdapter {
  const adapter = model.adapters.get(name);
  if (!adapter) throw new OptionError(`${owner}: the model has no adapter "${name}"`);
  if (model.model.config.numLabels === 1 && adapter.replacement(SCORE_WEIGHT)) return adapter;
  throw new OptionError(
    `${owner}: adapter "${name}" has no score head of one label: it needs addScoreHead(model) and taskType "SEQ_CLS"`,
  );
}

function bothTrainable(model: PeftModel, adapters: readonly (readonly [string, LoraAdapter])[]): TrainableModel {
  const folderOf = (dir: string, name: string): string => (name === "default" ? dir : join(dir, name));
  // Both have tensors of the same names.
  const trainables: Trainable[] = adapters.flatMap(([name, adapter]) =>
    adapter.trainable().map((trainable) => ({ ...trainable, name: `${name}/${trainable.name}` })),
  );
  return {
    lm: model.model,
    trainables,
    checkpointing: checkpointPolicy(model.gradientCheckpointing, null, model.model.backend),
    async save(dir) {
      for (const [name, adapter] of adapters) await saveAdapter(adapter, folderOf(dir, name));
    },
    async load(dir) {
      for (const [name, adapter] of adapters) {
        using file = openSafetensors(join(folderOf(dir, name), "adapter_model.safetensors"));
        await fillTensors(file, new Map(adapter.trainable().map((one) => [one.name, one.tensor])));
      }
    },
  };
}
