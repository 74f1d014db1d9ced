import { FormatError, show } from "../../formats/errors.ts";
import { type ParameterSpec, parameterSpecs } from "../parameters.ts";
import type { ModelSource, ReadableWeight } from "./source.ts";

/** A parameter and where its numbers are. */
export interface MatchedWeight {
  readonly spec: ParameterSpec;
  readonly weight: ReadableWeight;
}

export interface Matched {
  /** In the order of their bytes in the files. */
  readonly weights: readonly MatchedWeight[];
  /** What the files hold that the model has no place for. */
  readonly warnings: readonly string[];
}

const LISTED = 5;
/** Buffers that older checkpoints carry; they follow from the configuration. */
const COMPUTED_BUFFERS = /\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$/;

/**
 * The weight of every parameter. Names without the leading "model." (checkpoints of a bare decoder) are accepted; the
 * head of a model whose head is its embedding is left out. Throws FormatError for a missing parameter or a wrong shape.
 */
export function matchWeights(source: ModelSource): Matched {
  const { decoder, family } = source;
  const specs = new Map(parameterSpecs(decoder).map((spec) => [spec.name, spec]));
  const found = new Map<string, MatchedWeight>();
  const unexpected: string[] = [];
  for (const [name, weight] of source.weights) {
    const spec = specs.get(name) ?? specs.get(`model.${name}`);
    if (!spec) {
      const ignorable = COMPUTED_BUFFERS.test(name) || (decoder.tiedHead && name === "lm_head.weight");
      if (!ignorable) unexpected.push(name);
      continue;
    }
    const other = found.get(spec.name);
    if (other) {
      throw new FormatError({
        file: source.path,
        field: `tensor ${show(name)}`,
        found: `the same parameter as tensor ${show(other.weight.name)}`,
        expected: "each parameter once",
      });
    }
    if (weight.shape.join() !== spec.shape.join()) {
      throw new FormatError({
        file: source.path,
        field: `tensor ${show(weight.name)} shape`,
        found: show(weight.shape),
        expected: `${show(spec.shape)}, by the model's configuration`,
      });
    }
    if (weight.kind === "unsupported") {
      throw new FormatError({
        file: source.path,
        field: `tensor ${show(weight.name)} type`,
        found: weight.type,
        expected: weight.supported,
      });
    }
    found.set(spec.name, { spec, weight });
  }
  const missing = [...specs.keys()].filter((name) => !found.has(name));
  if (missing.length > 0) {
    throw new FormatError({
      file: source.path,
      field: "tensors",
      found: `no ${list(missing)}`,
      expected: `all ${specs.size} parameters of a ${family.modelType} model with ${decoder.layers} layers`,
    });
  }
  const warnings =
    unexpected.length > 0
      ? [`${source.path}: ignored ${list(unexpected)}, which a ${family.modelType} model lacks`]
      : [];
  return { weights: [...found.values()], warnings };
}

function list(names: readonly string[]): string {
  const shown = names.slice(0, LISTED).join(", ");
  return names.length > LISTED ? `${shown} and ${names.length - LISTED} more` : shown;
}
