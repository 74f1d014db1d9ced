import { existsSync, readdirSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { DeviceTensor } from "../backends/backend.ts";
import { atomicWriteFile } from "../formats/atomic.ts";
import { ByteFile } from "../formats/byte-file.ts";
import { FormatError, show } from "../formats/errors.ts";
import {
  openSafetensors,
  type SafetensorsSource,
  type TensorToWrite,
  writeSafetensors,
} from "../formats/safetensors.ts";
import { parseJsonObject } from "../formats/strict-json.ts";
import type { Shape } from "../graph/types.ts";
import type { CausalLM } from "../models/model.ts";
import { addScoreHead, SCORE_WEIGHT } from "../models/score-head.ts";
import { OptionError } from "../util/options.ts";
import { AdaLora, adaLoraTargets, ranksFromPattern } from "./adalora.ts";
import { type AdapterTensor, LoraAdapter } from "./adapter.ts";
import { baseOverride, fillTensor, matchTensors } from "./adapter-weights.ts";
import { baseParameter, createTensors, tyingWarnings } from "./attach.ts";
import { BaseChanges } from "./base-changes.ts";
import { changesBase, startFromBase } from "./base-init.ts";
import { configFileText, parseConfigFile } from "./config-file.ts";
import { DoraConstants, doraTargets } from "./dora.ts";
import {
  type AdapterTensorSpec,
  adapterLayout,
  baseWeightNames,
  EMBEDDING_WEIGHT,
  HEAD_WEIGHT,
  tripletSpecs,
} from "./layout.ts";
import { modelModules } from "./modules.ts";
import { resolveTargets } from "./targets.ts";
import { TokenConstants } from "./token-rows.ts";

const CONFIG_FILE = "adapter_config.json";
const WEIGHTS_FILE = "adapter_model.safetensors";
const MAX_CONFIG_BYTES = 16 * 2 ** 20;

export interface SaveAdapterOptions {
  /** Write the base weights of an embedding or head that has an update too. "auto", as PEFT: yes. */
  readonly saveEmbeddingLayers?: boolean | "auto";
}

/**
 * Writes adapter_config.json and adapter_model.safetensors into a folder, made if need be, as PEFT's `save_pretrained`
 * does for an adapter named "default". Each file is replaced whole or not at all. Throws the file system's errors.
 */
export async function saveAdapter(adapter: LoraAdapter, dir: string, options: SaveAdapterOptions = {}): Promise<void> {
  await mkdir(dir, { recursive: true });
  const tensors = [...adapterTensors(adapter)];
  tensors.push(...baseWeights(adapter, options.saveEmbeddingLayers ?? "auto"));
  await writeSafetensors(join(dir, WEIGHTS_FILE), tensors, { format: "pt" });
  await atomicWriteFile(join(dir, CONFIG_FILE), configFileText(adapter));
}

export interface LoadAdapterOptions {
  /** Go on training it; default false. */
  readonly isTrainable?: boolean;
  /** Folder within `dir`: where PEFT puts adapters that are not named "default". */
  readonly subfolder?: string;
}

/**
 * Puts an adapter that PEFT or `saveAdapter` wrote onto a model. 16-bit tensors become f32. Whatever base model the file
 * names, it goes onto this one if the shapes fit. Unknown configuration keys are dropped; `warnings` tells which.
 *
 * Throws FormatError naming file and tensor (missing, unexpected, of another shape or type), OptionError for a
 * configuration that is wrong or not supported, and when the model already has an adapter.
 */
export async function loadAdapter(
  model: CausalLM,
  dir: string,
  options: LoadAdapterOptions = {},
): Promise<LoraAdapter> {
  if (model.adapter) {
    throw new OptionError("the model already has an adapter: merge it, or dispose of it, before loading another");
  }
  const adapter = await readAdapter(model, dir, options);
  model.adapter = adapter;
  return adapter;
}

/** As `loadAdapter`, without putting it on the model. */
export async function readAdapter(
  model: CausalLM,
  dir: string,
  { isTrainable = false, subfolder }: LoadAdapterOptions = {},
): Promise<LoraAdapter> {
  const folder = subfolder === undefined ? dir : join(dir, subfolder);
  const file = join(folder, CONFIG_FILE);
  const { config, settings, known, warnings } = parseConfigFile(readConfig(folder, file), file, isTrainable);
  if (config.taskType === "SEQ_CLS" && model.config.numLabels === null) {
    using source = openWeights(folder);
    addScoreHead(model, { numLabels: source.tensors.get(`base_model.model.${SCORE_WEIGHT}`)?.shape[0] });
  }
  const chosen = resolveTargets(modelModules(model.config), config, { strict: false, owner: file });
  const adalora = settings && new AdaLora(settings, ranksFromPattern(settings.rankPattern, chosen, settings, file));
  const resolution = adalora ? adaLoraTargets(chosen, adalora, file) : chosen;
  const tying = tyingWarnings(model, config, resolution, file);
  const layout = adapterLayout(model.config, config, resolution, adalora, file);
  using source = openWeights(folder);
  const overrides = new Map<string, DeviceTensor>();
  let tensors: AdapterTensor[] = [];
  let tokenRows: TokenConstants | null = null;
  const changes = new BaseChanges(model);
  try {
    for (const [parameter, info] of matchTensors(source, layout)) {
      const tensor = await baseOverride(source, info, model, parameter);
      if (tensor) overrides.set(parameter, tensor);
    }
    tensors = await createTensors(model, layout, (spec, tensor) => fillTensor(source, spec.name, tensor));
    const start = changesBase(config)
      ? await startFromBase(model, config, resolution.targets, tensors, file, changes)
      : null;
    if (start) {
      for (const { name, tensor } of tensors) if (start.has(name)) await fillTensor(source, name, tensor);
    }
    const weightOf = (name: string): DeviceTensor => overrides.get(name) ?? baseParameter(model, name);
    const { targets } = resolution;
    tokenRows = await TokenConstants.create(model, tensors, weightOf);
    const dora = config.useDora
      ? await DoraConstants.create(model, doraTargets(targets, tensors, weightOf), { trained: isTrainable })
      : null;
    const adapter = new LoraAdapter({
      model,
      config,
      targets,
      tensors,
      overrides,
      adalora,
      start,
      dora,
      tokenRows,
      fileConfig: known,
      isTrainable,
      warnings: [...warnings, ...resolution.warnings, ...tying],
    });
    changes.commit();
    return adapter;
  } catch (error) {
    for (const tensor of [...overrides.values(), ...tensors.map((one) => one.tensor)]) tensor.dispose();
    tokenRows?.dispose();
    changes.undo(error);
    throw error;
  }
}

function readConfig(folder: string, path: string): Record<string, unknown> {
  if (!existsSync(path)) {
    const inside = existsSync(folder)
      ? readdirSync(folder, { withFileTypes: true })
          .filter((entry) => entry.isDirectory() && existsSync(join(folder, entry.name, CONFIG_FILE)))
          .map(({ name }) => name)
      : [];
    const there = inside.length > 0 ? `; there are adapters in its subfolders ${inside.map(show).join(", ")}` : "";
    const found = existsSync(folder) ? `no such file${there}` : "no such folder";
    throw new FormatError({ file: path, field: "file", found, expected: "an adapter's folder, as PEFT saves it" });
  }
  const file = new ByteFile(path);
  try {
    if (file.size > MAX_CONFIG_BYTES) {
      const expected = `at most ${MAX_CONFIG_BYTES} bytes`;
      throw new FormatError({ file: path, field: "file length", found: `${file.size} bytes`, expected });
    }
    const bytes = new Uint8Array(file.size);
    file.readSync(bytes, 0, "contents");
    return parseJsonObject(bytes, path, "contents");
  } finally {
    file.close();
  }
}

function openWeights(folder: string): SafetensorsSource {
  const path = join(folder, WEIGHTS_FILE);
  if (!existsSync(path) && existsSync(join(folder, "adapter_model.bin"))) {
    throw new FormatError({
      file: path,
      field: "file",
      found: "only adapter_model.bin, a Python pickle",
      expected: "safetensors; save it again with PEFT (safe_serialization=True)",
    });
  }
  return openSafetensors(path);
}

/** Base weights that go with the adapter: of a targeted embedding or head, and those that differ from the model's. */
function* baseWeights(
  { model, targets, overrides }: LoraAdapter,
  saveEmbeddingLayers: boolean | "auto",
): Generator<TensorToWrite> {
  for (const parameter of [EMBEDDING_WEIGHT, HEAD_WEIGHT]) {
    const targeted = targets.some(({ path }) => `${path}.weight` === parameter);
    const tensor =
      overrides.get(parameter) ?? (targeted && saveEmbeddingLayers ? baseParameter(model, parameter) : null);
    // PEFT could not load a quantised weight from here; the base model's own is the same.
    if (!tensor || tensor.quantization) continue;
    const [wrapped, plain] = baseWeightNames(parameter);
    yield tensorToWrite(targeted ? wrapped : plain, tensor);
  }
}

/**
 * An adapter's own tensors as its file has them: AdaLoRA's without the triplets that are not in use; of one that changed
 * the base weights, A and B with their first values beside them, so that B·A − B₀·A₀ goes onto the weights as they were.
 */
function* adapterTensors({ adalora, start, targets, tensors }: LoraAdapter): Generator<TensorToWrite> {
  for (const { name, aliases, tensor, shape, kind, target } of tensors) {
    const first = start?.get(name);
    if (first) {
      yield { ...withFirst(tensor, shape, kind, first), name };
      continue;
    }
    const kept = target && adalora?.kept(target.path);
    // A loaded adapter's tensors have been cut already.
    const cut = kept && kept.length < target.r ? keptTriplets(tensor, shape, kind, kept) : null;
    for (const key of [name, ...aliases]) yield cut ? { ...cut, name: key } : { ...tensorToWrite(key, tensor), shape };
  }
  if (!adalora) return;
  const gone = targets.filter(({ r }) => r === 0).flatMap(tripletSpecs);
  for (const { name, shape } of gone) yield { name, dtype: "F32", shape, data: (async function* () {})() };
}

/** [A; A₀] with twice the rows, [B, −B₀] with twice the columns. */
function withFirst(
  tensor: DeviceTensor,
  [rows, cols]: Shape,
  kind: AdapterTensorSpec["kind"],
  first: Float32Array,
): Omit<TensorToWrite, "name"> {
  const data = async function* () {
    const now = new Float32Array((await tensor.read()).buffer as ArrayBuffer);
    const both = new Float32Array(2 * now.length);
    if (kind === "A") {
      both.set(now);
      both.set(first, now.length);
    } else {
      for (let i = 0; i < rows!; i++) {
        const row = i * cols!;
        both.set(now.subarray(row, row + cols!), 2 * row);
        for (let j = 0; j < cols!; j++) both[2 * row + cols! + j] = -first[row + j]!;
      }
    }
    yield new Uint8Array(both.buffer);
  };
  return { dtype: "F32", shape: kind === "A" ? [2 * rows!, cols!] : [rows!, 2 * cols!], data: data() };
}

/** Some rows of A or E, some columns of B. */
function keptTriplets(
  tensor: DeviceTensor,
  [rows, cols]: Shape,
  kind: AdapterTensorSpec["kind"],
  kept: readonly number[],
): Omit<TensorToWrite, "name"> {
  const data = async function* () {
    const all = new Float32Array((await tensor.read()).buffer as ArrayBuffer);
    const rowsKept = kind === "B" ? Array.from({ length: rows! }, (_, i) => i) : kept;
    const colsKept = kind === "B" ? kept : Array.from({ length: cols! }, (_, i) => i);
    const cut = rowsKept.flatMap((row) => colsKept.map((col) => all[row * cols! + col]!));
    yield new Uint8Array(Float32Array.from(cut).buffer);
  };
  const shape = kind === "B" ? [rows!, kept.length] : [kept.length, cols!];
  return { dtype: "F32", shape, data: data() };
}

function tensorToWrite(name: string, tensor: DeviceTensor): TensorToWrite {
  const dtype = ({ f32: "F32", bf16: "BF16", f16: "F16" } as const)[tensor.dtype as "f32"];
  return { name, dtype, shape: tensor.shape, data: contents(tensor) };
}

/** Read when its turn in the file comes: one tensor's copy at a time. */
async function* contents(tensor: DeviceTensor): AsyncGenerator<Uint8Array> {
  yield await tensor.read();
}
