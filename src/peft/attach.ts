import type { DeviceTensor } from "../backends/backend.ts";
import type { CausalLM } from "../models/model.ts";
import { OptionError } from "../util/options.ts";
import { type AdapterTensor, LoraAdapter } from "./adapter.ts";
import { initialValues } from "./init.ts";
import { type AdapterTensorSpec, adapterLayout, EMBEDDING_WEIGHT, HEAD_WEIGHT } from "./layout.ts";
import { type LoraConfig, type LoraConfigOptions, loraConfig } from "./lora-config.ts";
import { EMBEDDING, HEAD, modelModules } from "./modules.ts";
import { type Resolution, resolveTargets } from "./targets.ts";
import { copyWeight, writeFloats } from "./weights.ts";

/**
 * Puts a new LoRA adapter on a model and returns it. Initial values come from `randomState`; copies of modules trained in
 * full are made in f32, decoded where the model has them in 4 bits. Throws OptionError for a configuration that is wrong
 * or fits nothing, and when the model already has an adapter.
 */
export async function attachLora(
  model: CausalLM,
  options: LoraConfigOptions | Readonly<Record<string, unknown>> = {},
): Promise<LoraAdapter> {
  if (model.adapter) {
    throw new OptionError("the model already has an adapter: merge it, or dispose of it, before attaching another");
  }
  const adapter = await createLora(model, options);
  model.adapter = adapter;
  return adapter;
}

/** As `attachLora`, without putting it on the model. `owner` names the options in errors. */
export async function createLora(
  model: CausalLM,
  options: LoraConfigOptions | Readonly<Record<string, unknown>>,
  owner = "LoraConfig",
): Promise<LoraAdapter> {
  const config = loraConfig(options, owner);
  const resolution = resolveTargets(modelModules(model.config), config, { strict: true, owner });
  const warnings = [...resolution.warnings, ...tyingWarnings(model, config, resolution, owner)];
  const tensors = await createTensors(model, adapterLayout(model.config, config, resolution), async (spec, tensor) => {
    if (spec.kind === "A" || spec.kind === "B") writeFloats(tensor, initialValues(spec, config));
    else await copyWeight(model.backend, baseParameter(model, spec.parameters[0]!), tensor);
  });
  return new LoraAdapter({
    model,
    config,
    targets: resolution.targets,
    tensors,
    isTrainable: !config.inferenceMode,
    warnings,
  });
}

/** Makes a tensor for each part of an adapter and has it filled; on any error all are freed. */
export async function createTensors(
  model: CausalLM,
  layout: readonly AdapterTensorSpec[],
  fill: (spec: AdapterTensorSpec, tensor: DeviceTensor) => Promise<void>,
): Promise<AdapterTensor[]> {
  const tensors: AdapterTensor[] = [];
  try {
    for (const spec of layout) {
      const tensor = model.backend.createTensor(spec.name, "f32", spec.shape, { role: "adapter" });
      tensors.push({ ...spec, tensor });
      await fill(spec, tensor);
    }
    return tensors;
  } catch (error) {
    for (const { tensor } of tensors) tensor.dispose();
    throw error;
  }
}

/** A parameter of the base model; of a tied head, the table it shares. */
export function baseParameter(model: CausalLM, name: string): DeviceTensor {
  return model.parameter(name === HEAD_WEIGHT && model.config.tiedHead ? EMBEDDING_WEIGHT : name);
}

/**
 * What a tied model's user should know (PEFT issue 2777). Throws OptionError for tied updates, which would need the
 * head's to be the embedding's transposed.
 */
export function tyingWarnings(
  { config: model }: CausalLM,
  config: LoraConfig,
  { targets, saved }: Resolution,
  owner: string,
): string[] {
  const isTied = (path: string): boolean => path === EMBEDDING || path === HEAD;
  const updated = targets.filter(({ path }) => isTied(path)).map(({ path }) => path);
  const copied = saved.filter(({ path }) => isTied(path)).map(({ path }) => path);
  if (!model.tiedHead) {
    return config.ensureWeightTying
      ? ["ensureWeightTying has no effect: the model's head is not tied to its embeddings"]
      : [];
  }
  if (config.ensureWeightTying) {
    if (updated.length > 0 && copied.length === 0) {
      throw new OptionError(
        `${owner}: ensureWeightTying is not supported yet with ${updated.join(" and ")} in targetModules; put them into modulesToSave, or leave it out`,
      );
    }
    return [];
  }
  const touched = [...new Set([...updated, ...copied])];
  if (touched.length === 0) return [];
  const advice = copied.length > 0 ? "; ensureWeightTying: true trains them as one" : "";
  return [
    `the model's head is its embedding table, and ${touched.join(" and ")} will be trained apart from it, as PEFT does: merging gives a model with a head of its own${advice}`,
  ];
}
