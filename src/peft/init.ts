import { createHash } from "node:crypto";
import { numel } from "../graph/types.ts";
import { OptionError } from "../util/options.ts";
import { Rng } from "../util/rng.ts";
import type { AdapterTensorSpec } from "./layout.ts";
import { multiply, transpose, zeros } from "./linear-algebra/matrix.ts";
import { orthogonalFactor } from "./linear-algebra/qr.ts";
import { randomMatrix } from "./linear-algebra/svd.ts";
import type { LoraConfig } from "./lora-config.ts";
import type { LoraTarget } from "./targets.ts";

/**
 * First values of an update's A or B, as PEFT draws them (not the same numbers: the generators differ).
 *
 * Linear: A U(±1/√in), which is kaiming_uniform(a = √5), B 0; "gaussian" A N(0, 1/r²). Embedding: A 0, B N(0, 1). With
 * `initLoraWeights` false, B is not zero either: U(±1/√r), and N(0, 1) for both halves of an embedding's. Each tensor has
 * its own stream, drawn from the seed and its name: adding a module changes no other's values. AdaLoRA: A and B N(0, 0.02²)
 * and E 0, or with false all N(0, 1).
 */
export function initialValues(
  { name, shape, kind, target }: AdapterTensorSpec,
  { initLoraWeights, randomState }: LoraConfig,
  isAdaLora = false,
): Float32Array {
  const values = new Float32Array(numel(shape));
  if (isAdaLora) {
    if (kind === "E" && initLoraWeights !== false) return values;
    const deviation = initLoraWeights === false ? 1 : 0.02;
    const normal = new Rng(streamSeed(randomState, name));
    return values.map(() => deviation * normal.normal());
  }
  const zero = target?.kind === "embedding" ? kind === "A" : kind === "B";
  if (initLoraWeights === "orthogonal" && target?.kind === "linear") return orthogonalHalf(target, kind, randomState);
  if (zero && initLoraWeights !== false) return values;
  const rng = new Rng(streamSeed(randomState, name));
  if (target?.kind === "embedding") return values.map(() => rng.normal());
  if (initLoraWeights === "gaussian") return values.map(() => rng.normal() / target!.r);
  const bound = 1 / Math.sqrt(shape[1]!);
  return values.map(() => bound * (2 * rng.float() - 1));
}

/**
 * Both halves random with B·A = 0 (D. Datta, "Rethinking LoRA initialisation", 2024), as PEFT: A and B take turns with the
 * rows of one random rotation, r/2 each. Throws OptionError for an odd rank.
 */
function orthogonalHalf(
  { path, r, shape: [out, width] }: LoraTarget,
  kind: AdapterTensorSpec["kind"],
  seed: number,
): Float32Array {
  if (r % 2 !== 0) throw new OptionError(`initLoraWeights "orthogonal" needs even ranks; ${path} has ${r}`);
  const turn = orthogonalFactor(randomMatrix(r, r, new Rng(streamSeed(seed, path))));
  const own = zeros(r / 2, r);
  for (let i = 0; i < r / 2; i++) {
    const row = 2 * i + (kind === "A" ? 0 : 1);
    own.data.set(turn.data.subarray(row * r, (row + 1) * r), i * r);
  }
  const rows = kind === "A" ? width : out;
  const mixed = multiply(randomMatrix(rows, r / 2, new Rng(streamSeed(seed, `${path}.${kind}`))), own);
  return Float32Array.from((kind === "A" ? transpose(mixed) : mixed).data, (value) => value / 10);
}

/** Seed of a tensor's own stream: 48 bits of a digest. */
export function streamSeed(seed: number, name: string): number {
  return createHash("sha256").update(`${seed}:${name}`).digest().readUIntBE(0, 6);
}
