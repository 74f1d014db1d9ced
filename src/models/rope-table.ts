import type { RopeConfig } from "./config.ts";

/** Inverse frequencies of the headDim/2 rotations, rounded to f32 as Hugging Face keeps them. */
export function inverseFrequencies(rope: RopeConfig, headDim: number): Float32Array {
  const half = headDim / 2;
  const plain = Float32Array.from({ length: half }, (_, i) => rope.theta ** ((-2 * i) / headDim));
  const { scaling } = rope;
  if (scaling.type === "default") return plain;
  if (scaling.type === "linear") return plain.map((f) => f / scaling.factor);
  if (scaling.type === "factors") return plain.map((f, i) => f / scaling.factors[i]!);
  // Llama 3.1: long wavelengths are divided by the factor, short ones kept, those between blended.
  const longest = scaling.originalMaxPositions / scaling.lowFreqFactor;
  const shortest = scaling.originalMaxPositions / scaling.highFreqFactor;
  return plain.map((f) => {
    const wavelength = (2 * Math.PI) / f;
    if (wavelength > longest) return f / scaling.factor;
    if (wavelength < shortest) return f;
    const smooth =
      (scaling.originalMaxPositions / wavelength - scaling.lowFreqFactor) /
      (scaling.highFreqFactor - scaling.lowFreqFactor);
    return ((1 - smooth) * f) / scaling.factor + smooth * f;
  });
}

/** [positions, headDim]: for each position the cosines, then the sines, of its headDim/2 angles. */
export function ropeTable(rope: RopeConfig, headDim: number, positions: number): Float32Array {
  const frequencies = inverseFrequencies(rope, headDim);
  const half = headDim / 2;
  const table = new Float32Array(positions * headDim);
  for (let p = 0; p < positions; p++) {
    for (let i = 0; i < half; i++) {
      // The angle is rounded to f32 before the cosine, as PyTorch computes it.
      const angle = Math.fround(p * frequencies[i]!);
      table[p * headDim + i] = Math.cos(angle);
      table[p * headDim + half + i] = Math.sin(angle);
    }
  }
  return table;
}
