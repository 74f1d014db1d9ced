import type { Backend } from "../../backends/backend.ts";
import { numel } from "../../graph/types.ts";
import { Rng } from "../../util/rng.ts";
import { ConfigError } from "../config.ts";
import { parseConfig } from "../family.ts";
import { CausalLM } from "../model.ts";
import { type ParameterSpec, parameterSpecs } from "../parameters.ts";
import { availableMemory } from "./available-memory.ts";
import { createParameters, type FillOptions } from "./fill.ts";
import { checkMemory } from "./memory.ts";
import type { DenseWeight } from "./source.ts";
import { planStorage, type StorageOptions } from "./storage.ts";

export interface RandomModelOptions extends StorageOptions, FillOptions {
  /** A config.json object. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly backend: Backend;
  /** Default 0. */
  readonly seed?: number;
  /** Standard deviation of matrices; config.initializer_range, or 0.02, when left out. */
  readonly initializerRange?: number;
  readonly nameOrPath?: string;
  readonly maxMemory?: number;
}

const PIECE = 2 ** 16;

/**
 * A model with fresh weights, as Hugging Face initialises them: matrices N(0, initializer_range²) with the padding
 * token's vector zero, norms the identity, biases zero. dtype is float32 unless given. The same seed gives the same
 * numbers in every dtype. Throws ConfigError or MemoryPlanError.
 */
export async function createRandomModel(options: RandomModelOptions): Promise<CausalLM> {
  const { config, backend, seed = 0 } = options;
  const { decoder } = parseConfig(config, "config");
  const range = options.initializerRange ?? config.initializer_range ?? 0.02;
  if (typeof range !== "number" || !(range >= 0) || !Number.isFinite(range)) {
    throw new ConfigError(`initializerRange: found ${range}; expected a finite number of at least 0`);
  }
  const rng = new Rng(seed);
  const paddingRow = typeof config.pad_token_id === "number" ? config.pad_token_id : null;
  const weights = parameterSpecs(decoder).map((spec) => ({
    spec,
    weight: freshWeight(spec, { rng, range, norm: 1 - decoder.normOffset, paddingRow }),
  }));
  const storage = { ...options, dtype: options.dtype ?? "float32" } as const;
  const stored = planStorage(weights, storage);
  const available = options.maxMemory ?? (backend.name === "cpu" ? availableMemory() : Number.POSITIVE_INFINITY);
  checkMemory("a new model", stored, storage, available);
  return new CausalLM({
    backend,
    config: decoder,
    hfConfig: config,
    parameters: await createParameters(backend, stored, options),
    nameOrPath: options.nameOrPath ?? "",
  });
}

interface Fresh {
  readonly rng: Rng;
  readonly range: number;
  readonly norm: number;
  readonly paddingRow: number | null;
}

/** Numbers made as they are asked for; a backend asks once, front to back. */
function freshWeight(spec: ParameterSpec, { rng, range, norm, paddingRow }: Fresh): DenseWeight {
  const { name, shape, kind } = spec;
  const columns = shape.at(-1)!;
  const padding = kind === "embedding" && paddingRow !== null ? paddingRow * columns : -1;
  let next = 0;
  const number = (at: number): number => {
    if (kind === "norm") return norm;
    if (kind === "bias") return 0;
    const value = range * rng.normal();
    return padding >= 0 && at >= padding && at < padding + columns ? 0 : value;
  };
  const read = (target: Uint8Array, offset: number): void => {
    if (offset !== next) throw new Error(`${name}: fresh weights can only be read in order`);
    next += target.byteLength;
    const piece = new Float32Array(Math.min(PIECE, target.byteLength / 4));
    for (let done = 0; done < target.byteLength; ) {
      const values = piece.subarray(0, Math.min(PIECE, (target.byteLength - done) / 4));
      const first = (offset + done) / 4;
      for (let i = 0; i < values.length; i++) values[i] = number(first + i);
      target.set(new Uint8Array(values.buffer, 0, values.byteLength), done);
      done += values.byteLength;
    }
  };
  return { kind: "dense", name, dtype: "f32", decoded: false, shape, fileBytes: 4 * numel(shape), read };
}
