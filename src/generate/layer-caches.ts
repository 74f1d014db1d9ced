import type { DeviceTensor } from "../backends/backend.ts";
import type { FloatDType } from "../graph/types.ts";
import type { CausalLM } from "../models/model.ts";
import type { LayerCache } from "./programs.ts";

/** Cache rows that are copied at a time. */
const COPY_ROWS = 4096;

/** Keys and values of every layer, [capacity, kvHeads·headDim] each, in the type of the backend's activations. */
export function createLayers({ backend, config }: CausalLM, capacity: number): LayerCache[] {
  const dtype: FloatDType = backend.computeDtype ?? "f32";
  const shape = [capacity, config.kvHeads * config.headDim];
  const made: DeviceTensor[] = [];
  const create = (layer: number, name: string): DeviceTensor => {
    const tensor = backend.createTensor(`cache.${layer}.${name}`, dtype, shape, { role: "cache" });
    made.push(tensor);
    return tensor;
  };
  try {
    return Array.from({ length: config.layers }, (_, layer) => ({
      keys: create(layer, "keys"),
      values: create(layer, "values"),
    }));
  } catch (error) {
    for (const tensor of made) tensor.dispose();
    throw error;
  }
}

export function disposeLayers(layers: readonly LayerCache[]): void {
  for (const { keys, values } of layers) for (const tensor of [keys, values]) tensor.dispose();
}

/**
 * From which cache row to which each prompt's keys and values go to be those of its other copies too, some at a time. Prompt
 * i is in the sequence i·copies, which has `maxLength` rows.
 */
export function* copiesOfPrompts(
  prompts: readonly (readonly number[])[],
  copies: number,
  maxLength: number,
): Generator<(readonly [from: number, to: number])[]> {
  let some: (readonly [number, number])[] = [];
  for (const [i, { length }] of prompts.entries()) {
    const source = i * copies * maxLength;
    for (let copy = 1; copy < copies; copy++) {
      for (let t = 0; t < length; t++) {
        some.push([source + t, source + copy * maxLength + t]);
        if (some.length === COPY_ROWS) {
          yield some;
          some = [];
        }
      }
    }
  }
  if (some.length > 0) yield some;
}
