import { createHash } from "node:crypto";
import { numel } from "../graph/types.ts";
import { Rng } from "../util/rng.ts";
import type { AdapterTensorSpec } from "./layout.ts";
import type { LoraConfig } from "./lora-config.ts";

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
  if (zero && initLoraWeights !== false) return values;
  const rng = new Rng(streamSeed(randomState, name));
  if (target?.kind === "embedding") return values.map(() => rng.normal());
  if (initLoraWeights === "gaussian") return values.map(() => rng.normal() / target!.r);
  const bound = 1 / Math.sqrt(shape[1]!);
  return values.map(() => bound * (2 * rng.float() - 1));
}

/** Seed of a tensor's own stream: 48 bits of a digest. */
export function streamSeed(seed: number, name: string): number {
  return createHash("sha256").update(`${seed}:${name}`).digest().readUIntBE(0, 6);
}
