import type { DeviceTensor } from "../backends/backend.ts";
import type { TokenRows } from "../models/adapter.ts";
import type { DecoderConfig } from "../models/config.ts";
import type { CausalLM } from "../models/model.ts";
import { OptionError } from "../util/options.ts";
import type { AdapterTensor } from "./adapter.ts";
import type { LoraConfig } from "./lora-config.ts";
import { EMBEDDING, HEAD } from "./modules.ts";
import type { Resolution } from "./targets.ts";
import { openWeight, writeFloats } from "./weights.ts";

/** Rows of a table that are trained while the others are not. */
export interface TokenTarget {
  readonly path: typeof EMBEDDING | typeof HEAD;
  /** The tokens, in the order of the rows. */
  readonly indices: readonly number[];
  /** What has these rows: the embedding, the head, or both where they are one. */
  readonly modules: readonly string[];
}

/** What `trainableTokenIndices` means for a model, by PEFT's rules. Throws OptionError where that is nothing. */
export function tokenTargets(
  model: DecoderConfig,
  { trainableTokenIndices: given }: LoraConfig,
  { targets, saved }: Resolution,
  owner: string,
): TokenTarget[] {
  if (given === null) return [];
  const fail = (message: string): never => {
    throw new OptionError(`${owner}: trainableTokenIndices: ${message}`);
  };
  const byPath = new Map<TokenTarget["path"], readonly number[]>();
  const lists: Readonly<Record<string, readonly number[]>> = Array.isArray(given)
    ? { [EMBEDDING]: given }
    : { ...given };
  for (const [name, indices] of Object.entries(lists)) {
    const path = ([EMBEDDING, HEAD] as const).find((one) => `.${one}`.endsWith(`.${name}`));
    if (!path) return fail(`"${name}" is no table of tokens; those there are: embed_tokens, lm_head`);
    if (byPath.has(path)) fail(`"${name}" is there already, under another name`);
    const outside = indices.find((index) => index >= model.vocabSize);
    if (outside !== undefined) fail(`the model has ${model.vocabSize} tokens, and no token ${outside}`);
    byPath.set(path, indices);
  }
  const [rows, head] = [byPath.get(EMBEDDING), byPath.get(HEAD)];
  if (model.tiedHead && head) {
    if (!rows) fail("the model's head is its embedding table: name embed_tokens, which trains both");
    if (rows!.join() !== head.join()) fail("the model's head is its embedding table: give both the same tokens");
    byPath.delete(HEAD);
  }
  return [...byPath].map(([path, indices]) => {
    const modules = model.tiedHead ? [EMBEDDING, HEAD] : [path];
    const taken = [...targets, ...saved].find((module) => modules.includes(module.path));
    if (taken) fail(`${taken.path} is in targetModules or modulesToSave too: leave it out of one of them`);
    return { path, indices, modules };
  });
}

/** Fills rows with those of the table they are for. */
export async function copyRows(model: CausalLM, from: DeviceTensor, indices: readonly number[], to: DeviceTensor) {
  const numbers = await openWeight(model.backend, from);
  const width = from.shape[1]!;
  indices.forEach((index, i) => void writeFloats(to, numbers(index * width, width), i * width));
}

/** What the trained rows of an adapter go with: the rows of the table, and where these are. */
export class TokenConstants {
  private readonly rows = new Map<string, TokenRows>();
  private readonly tensors: DeviceTensor[] = [];

  /** For the tensors of an adapter that are such rows. `weightOf` gives the table they are rows of. */
  static async create(
    model: CausalLM,
    tensors: readonly AdapterTensor[],
    weightOf: (parameter: string) => DeviceTensor,
  ): Promise<TokenConstants | null> {
    const own = tensors.filter(({ tokens }) => tokens);
    if (own.length === 0) return null;
    const constants = new TokenConstants();
    try {
      for (const { name, tokens, tensor } of own) await constants.add(model, name, tokens!, tensor, weightOf);
      return constants;
    } catch (error) {
      constants.dispose();
      throw error;
    }
  }

  of(module: string): TokenRows | undefined {
    return this.rows.get(module);
  }

  dispose(): void {
    for (const tensor of this.tensors) tensor.dispose();
  }

  private async add(
    model: CausalLM,
    name: string,
    { path, indices, modules }: TokenTarget,
    rows: DeviceTensor,
    weightOf: (parameter: string) => DeviceTensor,
  ): Promise<void> {
    const { vocabSize } = model.config;
    const make = (role: string, shape: readonly number[]): DeviceTensor => {
      const tensor = model.backend.createTensor(`${name}.${role}`, "f32", shape, { role: "constant" });
      this.tensors.push(tensor);
      return tensor;
    };
    const originals = make("original", rows.shape);
    await copyRows(model, weightOf(`${path}.weight`), indices, originals);
    const oneHot = make("one_hot", [indices.length, vocabSize]);
    const places = new Float32Array(vocabSize);
    indices.forEach((index, i) => {
      places[index] = 1;
      writeFloats(oneHot, places, i * vocabSize);
      places[index] = 0;
    });
    for (const module of modules) this.rows.set(module, { rows, originals, oneHot });
  }
}
