import type { Shape } from "../graph/types.ts";
import type { DecoderConfig } from "../models/config.ts";
import { type ParameterSpec, parameterSpecs } from "../models/parameters.ts";
import type { AdaLora } from "./adalora.ts";
import type { LoraConfig } from "./lora-config.ts";
import { EMBEDDING, HEAD } from "./modules.ts";
import type { LoraTarget, Resolution } from "./targets.ts";
import { type TokenTarget, tokenTargets } from "./token-rows.ts";

/** PEFT's wrappers around the model, as its files spell them. */
const PREFIX = "base_model.model.";
export const EMBEDDING_WEIGHT = `${EMBEDDING}.weight`;
export const HEAD_WEIGHT = `${HEAD}.weight`;

/** One tensor of an adapter. */
export interface AdapterTensorSpec {
  /** As in adapter_model.safetensors. */
  readonly name: string;
  /** Other names the same tensor goes by in the file: a head kept tied to the embedding table. */
  readonly aliases: readonly string[];
  readonly shape: Shape;
  /**
   * A and B of an update, AdaLoRA's E [r, 1] between them or DoRA's magnitudes [out]; or a copy of a parameter: of a module
   * trained in full, or a bias; or rows of a table.
   */
  readonly kind: "A" | "B" | "E" | "magnitude" | "saved" | "bias" | "tokens";
  /** Of an update's: what it updates. */
  readonly target: LoraTarget | null;
  /** Of copies: the parameters they take the place of. */
  readonly parameters: readonly string[];
  /** Of rows: which. */
  readonly tokens?: TokenTarget | undefined;
  /** Whether weight decay applies: not to biases and norms. */
  readonly decay: boolean;
}

/** Every tensor of an adapter, in the model's order: updates, modules trained in full, biases, rows. Throws OptionError. */
export function adapterLayout(
  model: DecoderConfig,
  config: LoraConfig,
  resolution: Resolution,
  adalora: AdaLora | null,
  owner = "LoraConfig",
): AdapterTensorSpec[] {
  const saved = savedSpecs(model, config, resolution);
  const copied = new Set(saved.flatMap(({ parameters }) => parameters));
  const biases = biasSpecs(model, config, resolution.targets).filter(({ parameters }) => !copied.has(parameters[0]!));
  const updates = resolution.targets.flatMap((target) => (adalora ? tripletSpecs(target) : pairSpecs(target, config)));
  const rows = tokenTargets(model, config, resolution, owner).map((tokens): AdapterTensorSpec => {
    const shape = [tokens.indices.length, model.hiddenSize];
    const name = `${PREFIX}${tokens.path}.token_adapter.trainable_tokens_delta`;
    return { name, aliases: [], shape, kind: "tokens", target: null, parameters: [], tokens, decay: true };
  });
  return [...updates, ...saved, ...biases, ...rows];
}

/** The names PEFT gives to the base weight of an embedding or head that is saved with the adapter. */
export function baseWeightNames(parameter: string): [wrapped: string, plain: string] {
  const module = parameter.slice(0, -".weight".length);
  return [`${PREFIX}${module}.base_layer.weight`, `${PREFIX}${parameter}`];
}

/** Whether a file's tensor is one of the duplicates PEFT writes of the biases of modules that are trained in full. */
export function isDuplicateBias(name: string): boolean {
  return name.endsWith(".original_module.bias") || name.endsWith(".modules_to_save.bias");
}

function pairSpecs(target: LoraTarget, { useDora }: LoraConfig): AdapterTensorSpec[] {
  const { path, kind, r } = target;
  const [rows, cols] = target.shape;
  const rest = { aliases: [], target, parameters: [], decay: true };
  const out = kind === "embedding" ? cols : rows;
  const magnitude = {
    ...rest,
    name: `${PREFIX}${path}.lora_magnitude_vector`,
    shape: [out],
    kind: "magnitude",
  } as const;
  const dora = useDora ? [magnitude] : [];
  if (kind === "embedding") {
    // Parameters rather than modules in PEFT, hence no ".weight".
    const name = `${PREFIX}${path}.lora_embedding_`;
    return [
      { ...rest, name: `${name}A`, shape: [r, rows], kind: "A" },
      { ...rest, name: `${name}B`, shape: [cols, r], kind: "B" },
      ...dora,
    ];
  }
  const name = `${PREFIX}${path}.lora_`;
  return [
    { ...rest, name: `${name}A.weight`, shape: [r, cols], kind: "A" },
    { ...rest, name: `${name}B.weight`, shape: [rows, r], kind: "B" },
    ...dora,
  ];
}

/** AdaLoRA's tensors, parameters rather than modules in PEFT. A module pruned to rank 0 has them too, without numbers. */
export function tripletSpecs(target: LoraTarget): AdapterTensorSpec[] {
  const { path, r } = target;
  const [rows, cols] = target.shape;
  const rest = { aliases: [], target, parameters: [], decay: true };
  const name = `${PREFIX}${path}.lora_`;
  return [
    { ...rest, name: `${name}A`, shape: [r, cols], kind: "A" },
    { ...rest, name: `${name}B`, shape: [rows, r], kind: "B" },
    { ...rest, name: `${name}E`, shape: [r, 1], kind: "E" },
  ];
}

function savedSpecs(model: DecoderConfig, config: LoraConfig, { saved }: Resolution): AdapterTensorSpec[] {
  const parameters = new Map(saved.flatMap((module) => module.parameters.map((spec) => [spec.name, spec])));
  const tied =
    model.tiedHead && config.ensureWeightTying && [EMBEDDING_WEIGHT, HEAD_WEIGHT].some((name) => parameters.has(name));
  const table = { name: EMBEDDING_WEIGHT, shape: [model.vocabSize, model.hiddenSize], kind: "embedding" } as const;
  const all: ParameterSpec[] = tied
    ? [table, ...[...parameters.values()].filter(({ name }) => name !== EMBEDDING_WEIGHT && name !== HEAD_WEIGHT)]
    : [...parameters.values()];
  return all.map(({ name, shape, kind }) => {
    const shared = tied && name === EMBEDDING_WEIGHT;
    return {
      name: PREFIX + name,
      aliases: shared ? [PREFIX + HEAD_WEIGHT] : [],
      shape,
      kind: "saved",
      target: null,
      parameters: shared ? [name, HEAD_WEIGHT] : [name],
      decay: kind !== "bias" && kind !== "norm",
    };
  });
}

function biasSpecs(model: DecoderConfig, config: LoraConfig, targets: readonly LoraTarget[]): AdapterTensorSpec[] {
  if (config.bias === "none") return [];
  const targeted = new Set(targets.map(({ path }) => `${path}.bias`));
  return parameterSpecs(model)
    .filter(({ name, kind }) => kind === "bias" && (config.bias === "all" || targeted.has(name)))
    .map(({ name, shape }) => ({
      name: PREFIX + (targeted.has(name) ? name.replace(/bias$/, "base_layer.bias") : name),
      aliases: [],
      shape,
      kind: "bias",
      target: null,
      parameters: [name],
      decay: false,
    }));
}
