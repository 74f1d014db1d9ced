import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { FormatError, reason } from "../../formats/errors.ts";
import { openSafetensorsFolder, type SafetensorsInfo, type SafetensorsSource } from "../../formats/safetensors.ts";
import { parseJsonObject } from "../../formats/strict-json.ts";
import { parseConfig } from "../family.ts";
import { checkQuantizationConfig, nf4Weights } from "./bitsandbytes.ts";
import type { DenseDType, ModelSource, SourceWeight } from "./source.ts";

const MAX_CONFIG_BYTES = 2 ** 24;
const DTYPES: Readonly<Partial<Record<string, DenseDType>>> = { F32: "f32", F16: "f16", BF16: "bf16" };

/**
 * Opens a Hugging Face folder: config.json and safetensors, in one file or in shards, plain or in bitsandbytes' NF4.
 * Throws FormatError or ConfigError, with nothing left open.
 */
export function openFolder(folder: string): ModelSource {
  const configFile = join(folder, "config.json");
  if (!existsSync(configFile)) throw noConfig(folder, configFile);
  const hfConfig = readJson(configFile);
  const { family, decoder } = parseConfig(hfConfig, configFile);
  checkQuantizationConfig(hfConfig, configFile);
  const generationFile = join(folder, "generation_config.json");
  const generationConfig = existsSync(generationFile) ? readJson(generationFile) : null;
  const files = openTensors(folder);
  try {
    const weights = sourceWeights(files);
    const close = () => files.close();
    return { path: folder, family, decoder, hfConfig, generationConfig, weights, [Symbol.dispose]: close };
  } catch (error) {
    files.close();
    throw error;
  }
}

function sourceWeights(files: SafetensorsSource): Map<string, SourceWeight> {
  const { weights: quantized, used } = nf4Weights(files);
  const weights = new Map<string, SourceWeight>();
  for (const [name, info] of files.tensors) {
    const nf4 = quantized.get(name);
    if (nf4) weights.set(name, nf4);
    else if (!used.has(name)) weights.set(name, plainWeight(files, info));
  }
  return weights;
}

function plainWeight(
  files: SafetensorsSource,
  { name, dtype: type, shape, byteLength }: SafetensorsInfo,
): SourceWeight {
  const dtype = DTYPES[type];
  if (!dtype) return { kind: "unsupported", name, shape, type, supported: Object.keys(DTYPES).join(", ") };
  const read = (target: Uint8Array, offset: number) => files.readIntoSync(name, target, offset, target.byteLength);
  return { kind: "dense", name, dtype, decoded: false, shape, fileBytes: byteLength, read };
}

function openTensors(folder: string): SafetensorsSource {
  const hasSafetensors = ["model.safetensors", "model.safetensors.index.json"].some((f) => existsSync(join(folder, f)));
  if (!hasSafetensors) {
    const pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"].find((f) => existsSync(join(folder, f)));
    if (pickled) {
      const expected = "safetensors: pickled checkpoints can run code and are not read; convert them first";
      throw new FormatError({ file: folder, field: "weights", found: pickled, expected });
    }
  }
  return openSafetensorsFolder(folder);
}

function noConfig(folder: string, configFile: string): FormatError {
  const expected = "a config.json beside the weights";
  if (existsSync(join(folder, "adapter_config.json"))) {
    const found = "an adapter (adapter_config.json), not a model";
    return new FormatError({ file: folder, field: "config.json", found, expected: "its base model's folder" });
  }
  return new FormatError({ file: configFile, field: "file", found: "no such file", expected });
}

/** A small JSON object on disk. Throws FormatError. */
function readJson(file: string): Record<string, unknown> {
  let bytes: Uint8Array;
  try {
    const { size } = statSync(file);
    if (size > MAX_CONFIG_BYTES) {
      const expected = `at most ${MAX_CONFIG_BYTES} bytes`;
      throw new FormatError({ file, field: "file length", found: `${size} bytes`, expected });
    }
    bytes = readFileSync(file);
  } catch (cause) {
    if (cause instanceof FormatError) throw cause;
    throw new FormatError({ file, field: "file", found: reason(cause), expected: "a readable file", cause });
  }
  return parseJsonObject(bytes, file, "the file");
}
