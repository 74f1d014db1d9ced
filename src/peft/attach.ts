import type { DeviceTensor } from "../backends/backend.ts";
import { numel } from "../graph/types.ts";
import type { CausalLM } from "../models/model.ts";
import { OptionError } from "../util/options.ts";
import { AdaLora, adaLoraTargets } from "./adalora.ts";
import {
  type AdaLoraConfigOptions,
  type AdaLoraSettings,
  adaLoraConfig,
  isAdaLora,
  splitAdaLora,
} from "./adalora-config.ts";
import { type AdapterTensor, LoraAdapter } from "./adapter.ts";
import { BaseChanges } from "./base-changes.ts";
import { changesBase, startFromBase } from "./base-init.ts";
import { DoraConstants, doraTargets, squaredLengths, updatedSquares } from "./dora.ts";
import { initialValues } from "./init.ts";
import { type AdapterTensorSpec, adapterLayout, EMBEDDING_WEIGHT, HEAD_WEIGHT } from "./layout.ts";
import { type LoraConfig, type LoraConfigOptions, loraConfig } from "./lora-config.ts";
import { EMBEDDING, HEAD, modelModules } from "./modules.ts";
import { type LoraTarget, type Resolution, resolveTargets } from "./targets.ts";
import { copyRows, TokenConstants } from "./token-rows.ts";
import { withoutUnsupported } from "./unsupported.ts";
import { UpdateRunner, weightUpdate } from "./update.ts";
import { copyWeight, openWeight, writeFloats } from "./weights.ts";

/**
 * Puts a new LoRA adapter on a model and returns it. Initial values come from `randomState`; copies of modules trained in
 * full are made in f32, decoded where the model has them in 4 bits. Throws OptionError for a configuration that is wrong
 * or fits nothing, and when the model already has an adapter.
 */
export async function attachLora(
  model: CausalLM,
  options: LoraConfigOptions | AdaLoraConfigOptions | Readonly<Record<string, unknown>> = {},
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
  options: LoraConfigOptions | AdaLoraConfigOptions | Readonly<Record<string, unknown>>,
  owner = "LoraConfig",
): Promise<LoraAdapter> {
  const { config, settings, notes } = parseAdapterConfig(options as Record<string, unknown>, owner);
  const adalora = settings && new AdaLora(settings);
  const chosen = resolveTargets(modelModules(model.config), config, { strict: true, owner });
  const resolution = adalora ? adaLoraTargets(chosen, adalora, owner) : chosen;
  const tying = tyingWarnings(model, config, resolution, owner);
  const layout = adapterLayout(model.config, config, resolution, adalora, owner);
  const tensors = await createTensors(model, layout, async (spec, tensor) => {
    if (spec.target) writeFloats(tensor, initialValues(spec, config, adalora !== null));
    else if (spec.tokens) {
      const { path, indices } = spec.tokens;
      await copyRows(model, baseParameter(model, `${path}.weight`), indices, tensor);
    } else await copyWeight(model.backend, baseParameter(model, spec.parameters[0]!), tensor);
  });
  let tokenRows: TokenConstants | null = null;
  const changes = new BaseChanges(model);
  try {
    tokenRows = await TokenConstants.create(model, tensors, (name) => baseParameter(model, name));
    const start = changesBase(config)
      ? await startFromBase(model, config, resolution.targets, tensors, owner, changes)
      : null;
    if (start) notes.push(baseNote(config));
    const dora = config.useDora ? await startDora(model, config, resolution.targets, tensors) : null;
    const warnings = [...notes, ...resolution.warnings, ...tying];
    const { targets } = resolution;
    const adapter = new LoraAdapter({
      model,
      config,
      targets,
      tensors,
      adalora,
      dora,
      tokenRows,
      start,
      isTrainable: !config.inferenceMode,
      warnings,
    });
    changes.commit();
    return adapter;
  } catch (error) {
    for (const { tensor } of tensors) tensor.dispose();
    tokenRows?.dispose();
    changes.undo(error);
    throw error;
  }
}

/** What one should know of a base weight that is another now. */
function baseNote({ initLoraWeights }: LoraConfig): string {
  const changed = `initLoraWeights "${initLoraWeights}" has changed the model's weights, which without the adapter are not what was loaded`;
  return initLoraWeights === "loftq"
    ? `${changed}: they are 4-bit now. The saved adapter goes with these; with loftqIter 1 they are what loadIn4bit gives without double quantisation, else save the model too`
    : `${changed}; the saved adapter goes with the weights as they were`;
}

/** Options for LoRA or AdaLoRA as the LoRA configuration, and AdaLoRA's settings beside it. Throws OptionError. */
export function parseAdapterConfig(
  options: Readonly<Record<string, unknown>>,
  owner: string,
): { config: LoraConfig; settings: AdaLoraSettings | null; notes: string[] } {
  if (!isAdaLora(options, owner)) {
    const { peftType: _, peft_type: __, ...rest } = options;
    return { config: loraConfig(rest, owner), settings: null, notes: [] };
  }
  const config = adaLoraConfig(withoutUnsupported(owner, options), owner);
  const { lora, settings } = splitAdaLora(config, owner);
  const notes = options.r === undefined ? [] : ["AdaLoRA does not use r: the rank at the start is initR"];
  return { config: lora, settings: { ...settings, rankPattern: null }, notes };
}

/** Magnitudes as long as the weight's vectors are with the update as it starts. */
async function startDora(
  model: CausalLM,
  { initLoraWeights }: LoraConfig,
  targets: readonly LoraTarget[],
  tensors: readonly AdapterTensor[],
): Promise<DoraConstants> {
  const { backend } = model;
  const all = doraTargets(targets, tensors, (name) => baseParameter(model, name));
  const runner = new UpdateRunner(backend);
  try {
    for (const { target, weight, a, b, magnitude } of all) {
      const numbers = await openWeight(backend, weight);
      // Only these start from B·A = 0.
      const zero = initLoraWeights === true || initLoraWeights === "gaussian";
      const pair = { a, b, scale: target.scale, dropout: 0 };
      const squares = zero
        ? squaredLengths(target, numbers)
        : await updatedSquares(target, numbers, await weightUpdate(backend, target, pair), runner);
      writeFloats(magnitude, Float32Array.from(squares, Math.sqrt));
    }
  } finally {
    runner.dispose();
  }
  return DoraConstants.create(model, all, { trained: true });
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
      // Of a module that AdaLoRA has pruned altogether.
      if (numel(spec.shape) === 0) continue;
      // A vector to the model, though PEFT stores a column.
      const shape = spec.kind === "E" ? [spec.shape[0]!] : spec.shape;
      const tensor = model.backend.createTensor(spec.name, "f32", shape, { role: "adapter" });
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
