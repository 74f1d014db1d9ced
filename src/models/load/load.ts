import { existsSync, statSync } from "node:fs";
import type { Backend } from "../../backends/backend.ts";
import { FormatError } from "../../formats/errors.ts";
import { availableMemory } from "../../util/available-memory.ts";
import { CausalLM } from "../model.ts";
import { createParameters, type FillOptions } from "./fill.ts";
import { openFolder } from "./folder.ts";
import { openGgufModel } from "./gguf.ts";
import { matchWeights } from "./match.ts";
import { checkMemory } from "./memory.ts";
import type { ModelSource } from "./source.ts";
import { planStorage, type StorageOptions } from "./storage.ts";

export interface LoadModelOptions extends StorageOptions, FillOptions {
  /** A Hugging Face folder (config.json, safetensors) or a .gguf file. */
  readonly path: string;
  readonly backend: Backend;
  /** What adapters trained on it name as their base; the path when left out. */
  readonly nameOrPath?: string;
  /** Bytes the weights may take; what is free, when left out. */
  readonly maxMemory?: number;
}

/**
 * Load a causal language model into a backend's memory. Weights are streamed: beside the model itself no more than a few
 * MiB are held, quantising included. Everything is checked before the first weight is read: names and shapes against the
 * configuration, and the bytes needed against the memory there is. Nothing stays open or allocated after an error.
 *
 * Throws FormatError (a file is missing, malformed, or not this model's), ConfigError (config.json or the options),
 * MemoryPlanError (it does not fit; the message says what would). `model.warnings` lists tensors that were ignored.
 */
export async function loadModel(options: LoadModelOptions): Promise<CausalLM> {
  const { path, backend } = options;
  using source = openModel(path);
  const { weights, warnings } = matchWeights(source);
  const stored = planStorage(weights, options);
  const available = options.maxMemory ?? backend.freeMemory?.() ?? availableMemory();
  const ownMemory = backend.freeMemory !== undefined;
  checkMemory(path, ownMemory ? stored.filter(({ host }) => !host) : stored, options, available);
  return new CausalLM({
    backend,
    config: source.decoder,
    hfConfig: source.hfConfig,
    generationConfig: source.generationConfig,
    parameters: await createParameters(backend, stored, options),
    nameOrPath: options.nameOrPath ?? path,
    path,
    warnings,
  });
}

/** Opens a folder or a GGUF file, reading no more than headers. The caller disposes of it. */
export function openModel(path: string): ModelSource {
  if (!existsSync(path)) {
    const expected = "a Hugging Face model folder or a .gguf file";
    throw new FormatError({ file: path, field: "path", found: "nothing there", expected });
  }
  if (statSync(path).isDirectory()) return openFolder(path);
  if (path.endsWith(".safetensors")) {
    const expected = "the folder it is in, with its config.json";
    throw new FormatError({ file: path, field: "path", found: "one safetensors file", expected });
  }
  return openGgufModel(path);
}
