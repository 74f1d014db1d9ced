import type { Backend } from "../../backends/backend.ts";
import { numel } from "../../graph/types.ts";
import { availableMemory } from "../../util/available-memory.ts";
import { Rng } from "../../util/rng.ts";
import { ConfigError } from "../config.ts";
import { parseConfig } from "../family.ts";
import { CausalLM } from "../model.ts";
import { type ParameterSpec, parameterSpecs } from "../parameters.ts";
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
  const normals = new NormalStream(new Rng(seed), range);
  const paddingRow = typeof config.pad_token_id === "number" ? config.pad_token_id : null;
  const weights = parameterSpecs(decoder).map((spec) => ({
    spec,
    weight: freshWeight(spec, { normals, norm: 1 - decoder.normOffset, paddingRow }),
  }));
  const storage = { ...options, dtype: options.dtype ?? "float32" } as const;
  const stored = planStorage(weights, storage);
  const available = options.maxMemory ?? backend.freeMemory?.() ?? availableMemory();
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
  /** One for all weights, which are made in their order. */
  readonly normals: NormalStream;
  readonly norm: number;
  readonly paddingRow: number | null;
}

/** Numbers made as they are asked for; a backend asks once, front to back. */
function freshWeight(spec: ParameterSpec, { normals, norm, paddingRow }: Fresh): DenseWeight {
  const { name, shape, kind } = spec;
  const columns = shape.at(-1)!;
  const padding = kind === "embedding" && paddingRow !== null ? paddingRow * columns : -columns;
  let next = 0;
  const read = (target: Uint8Array, offset: number): void => {
    if (offset !== 4 * next) throw new Error(`${name}: fresh weights can only be read in order`);
    const values = new Float32Array(target.byteLength / 4);
    if (kind === "norm") values.fill(norm);
    else if (kind !== "bias") normals.fill(values);
    values.fill(0, Math.max(0, padding - next), Math.max(0, padding + columns - next));
    target.set(new Uint8Array(values.buffer));
    next += values.length;
  };
  return { kind: "dense", name, dtype: "f32", decoded: false, shape, fileBytes: 4 * numel(shape), read };
}

const PAIRS = 2 ** 13;

/**
 * Normal numbers, N(0, range²), the same however many are asked for at a time (Box–Muller, both of each pair; 32 bits of
 * uniform are plenty for an f32).
 */
class NormalStream {
  private readonly rng: Rng;
  private readonly range: number;
  private readonly uniform = new Uint32Array(2 * PAIRS);
  private readonly ready = new Float32Array(2 * PAIRS);
  private used = 2 * PAIRS;

  constructor(rng: Rng, range: number) {
    this.rng = rng;
    this.range = range;
  }

  fill(target: Float32Array): void {
    for (let done = 0; done < target.length; ) {
      if (this.used === this.ready.length) this.more();
      const part = this.ready.subarray(this.used, this.used + target.length - done);
      target.set(part, done);
      this.used += part.length;
      done += part.length;
    }
  }

  private more(): void {
    const { uniform, ready, range } = this;
    this.rng.fillUint32(uniform);
    for (let i = 0; i < uniform.length; i += 2) {
      const radius = range * Math.sqrt(-2 * Math.log((uniform[i]! + 1) / 2 ** 32));
      const angle = ((2 * Math.PI) / 2 ** 32) * uniform[i + 1]!;
      ready[i] = radius * Math.cos(angle);
      ready[i + 1] = radius * Math.sin(angle);
    }
    this.used = 0;
  }
}
