import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Backend } from "../backends/backend.ts";
import { FormatError, show } from "../formats/errors.ts";
import { parseJsonObject } from "../formats/strict-json.ts";
import { numel } from "../graph/types.ts";
import type { DecoderConfig } from "../models/config.ts";
import { parseConfig } from "../models/family.ts";
import { tensorOptions } from "../models/load/fill.ts";
import { openModel } from "../models/load/load.ts";
import { type MatchedWeight, matchWeights } from "../models/load/match.ts";
import type { DenseDType, DenseWeight } from "../models/load/source.ts";
import { planStorage, type StorageOptions } from "../models/load/storage.ts";
import { CausalLM } from "../models/model.ts";
import { parameterSpecs } from "../models/parameters.ts";

interface ModelFacts {
  readonly decoder: DecoderConfig;
  readonly hfConfig: Readonly<Record<string, unknown>>;
  readonly weights: readonly MatchedWeight[];
}

/**
 * A model whose tensors have their sizes and no contents, from a model's folder or .gguf file (of which only headers are
 * read), or from a config.json alone (or its folder), which says what the weights would be. For a sketch backend.
 * Throws FormatError or ConfigError.
 */
export function sketchModel(path: string, backend: Backend, options: StorageOptions): CausalLM {
  const { decoder, hfConfig, weights } = modelFacts(path);
  // A checkpoint made with bitsandbytes is in 4 bits whatever is asked for.
  const quantized = hfConfig.quantization_config !== undefined && !options.fullFinetuning;
  const stored = planStorage(weights, { ...options, loadIn4bit: options.loadIn4bit || quantized });
  const kept = tensorOptions(stored);
  const parameters = new Map(
    stored.map(({ spec, dtype }, i) => [spec.name, backend.createTensor(spec.name, dtype, spec.shape, kept[i]!)]),
  );
  return new CausalLM({ backend, config: decoder, hfConfig, parameters, nameOrPath: path });
}

function modelFacts(path: string): ModelFacts {
  const configFile = configOnly(path);
  if (configFile !== null) return fromConfig(configFile);
  using source = openModel(path);
  const { weights } = matchWeights(source);
  return { decoder: source.decoder, hfConfig: source.hfConfig, weights };
}

/** The config.json where there are no weights beside it, else null. */
function configOnly(path: string): string | null {
  if (!existsSync(path)) {
    const expected = "a model's folder, a .gguf file, or a config.json";
    throw new FormatError({ file: path, field: "path", found: "nothing there", expected });
  }
  if (path.endsWith(".json")) return path;
  if (!statSync(path).isDirectory()) return null;
  const hasWeights = ["model.safetensors", "model.safetensors.index.json"].some((name) => existsSync(join(path, name)));
  return hasWeights ? null : join(path, "config.json");
}

function fromConfig(file: string): ModelFacts {
  const hfConfig = parseJsonObject(readFileSync(file), file, "the file");
  const { decoder } = parseConfig(hfConfig, file);
  const dtype = weightType(hfConfig, file);
  const weights = parameterSpecs(decoder).map((spec) => {
    const { name, shape } = spec;
    const read = (): never => {
      throw new Error(`${name} has no contents: only the configuration was read`);
    };
    const size = dtype === "f32" ? 4 : 2;
    const weight: DenseWeight = {
      kind: "dense",
      name,
      dtype,
      decoded: false,
      shape,
      fileBytes: size * numel(shape),
      read,
    };
    return { spec, weight };
  });
  return { decoder, hfConfig, weights };
}

const TYPES: Readonly<Record<string, DenseDType>> = { float32: "f32", bfloat16: "bf16", float16: "f16" };

/** Type of a checkpoint's weights as its configuration has it; Hugging Face's default is float32. */
function weightType(hfConfig: Readonly<Record<string, unknown>>, file: string): DenseDType {
  const name = hfConfig.dtype ?? hfConfig.torch_dtype ?? "float32";
  const type = typeof name === "string" && Object.hasOwn(TYPES, name) ? TYPES[name] : undefined;
  if (type) return type;
  throw new FormatError({ file, field: "torch_dtype", found: show(name), expected: Object.keys(TYPES).join(", ") });
}
